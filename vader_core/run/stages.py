"""A run in stages: the settings of each, and where each lies in the run's directory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.paths import kept, kept_data, kept_place, kept_source
from vader_core.run.config import RunConfig, SeamSection, StageSection, validated
from vader_core.run.layers import changed, merged
from vader_core.run.names import CONFIG, STAGES, SUMMARY
from vader_core.run.section import Tree


@dataclass(frozen=True)
class Place:
    """Where a stage stands in its run; a run without stages is its own only one.

    Args:
        before: Optimizer steps of all stages before it: samples and noise are counted on from there.
        schedule_before: Those that its learning-rate schedule has behind it.
        schedule_steps: Steps of the whole schedule; ``None`` where it is this stage's own.
    """

    before: int = 0
    schedule_before: int = 0
    schedule_steps: int | None = None


#: A run without stages.
ALONE = Place()


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        number: From 1.
        name: What it is called.
        seam: What it takes over; ``None`` for the first.
        config: Its settings, a run's without stages.
        place: Where it stands.
    """

    number: int
    name: str
    seam: SeamSection | None
    config: RunConfig
    place: Place

    def folder(self, run: Path) -> Path:
        """Its own run directory."""
        return stage_folder(run, self.number)


def stage_folder(run: Path, number: int) -> Path:
    """The directory of stage ``number``, from 1."""
    return run / STAGES / str(number)


def stages_of(config: RunConfig) -> list[Stage]:
    """The stages of a run, each with its whole settings.

    Raises:
        VaderError: A stage that does not say what it takes over, or whose seam cannot be kept.
    """
    tree = config.model_dump()
    del tree["stages"]
    configs = [validated(merged(tree, item.options)) for item in config.stages]
    for number, item in enumerate(config.stages, 1):
        _check_seam(number, item, config.stages, configs)
    starts = [number for number, item in enumerate(config.stages) if not _continued(item)]
    steps = [one.trainer.max_steps for one in configs]
    found = []
    for index, (item, own) in enumerate(zip(config.stages, configs, strict=True)):
        first = max(start for start in starts if start <= index)
        last = min([start for start in starts if start > index], default=len(steps))
        place = Place(sum(steps[:index]), sum(steps[first:index]), sum(steps[first:last]))
        found.append(Stage(index + 1, item.name or f"stage {index + 1}", item.seam, own, place))
    return found


def _continued(item: StageSection) -> bool:
    return item.seam is not None and item.seam.schedule == "continued"


def _check_seam(
    number: int, item: StageSection, items: Sequence[StageSection], configs: Sequence[RunConfig]
) -> None:
    where, own = f"stages.{number}", configs[number - 1]
    if number == 1:
        if item.seam is not None:
            raise VaderError("stages.1.seam: the first stage has none before it: leave it out")
        return
    if item.seam is None:
        raise VaderError(
            f"{where} must say what it takes over from the stage before: seam: {{optimizer: fresh or kept, "
            "schedule: fresh or continued}"
        )
    before = configs[number - 2]
    for what, same in (
        ("backbone.name", before.backbone.name == own.backbone.name),
        ("tuning", before.tuning == own.tuning),
        ("lora", before.lora == own.lora),
    ):
        if not same:
            raise VaderError(f"{where}: {what} is not that of the stage before; all stages train the same")
    averaged = before.trainer.ema is not None
    if item.seam.weights == "average" and not averaged:
        raise VaderError(
            f"{where}.seam.weights=average, but the stage before keeps none: set its trainer.ema"
        )
    if item.seam.average == "kept" and not (averaged and own.trainer.ema is not None):
        raise VaderError(f"{where}.seam.average=kept, but not both stages keep one: set trainer.ema in both")
    if item.seam.optimizer == "kept" and before.trainer.optimizer != own.trainer.optimizer:
        raise VaderError(f"{where}.seam.optimizer=kept, but trainer.optimizer is another: use fresh")


def total_steps(config: RunConfig) -> int:
    """Optimizer steps of a run, of all its stages where it has some."""
    if not config.stages:
        return config.trainer.max_steps
    return sum(stage.config.trainer.max_steps for stage in stages_of(config))


def with_kept_paths(config: RunConfig) -> RunConfig:
    """The settings of a run in stages as its directory keeps them: usable from another folder."""
    sections = config.model_dump()
    stages = [_kept(stage) for stage in sections.pop("stages")]
    return changed(validated(_kept(sections)), stages=stages)  # type: ignore[arg-type]


def _kept(tree: Tree) -> Tree:
    """A tree whose paths are absolute."""
    found = merged(tree)
    for section, key, keep in (
        ("data", "source", kept_data),
        ("data", "root", lambda root: None if root is None else kept(root)),
        ("prompts", "source", kept_source),
        ("lora", "start", kept_place),
    ):
        part = found.get(section)
        if isinstance(part, Mapping) and part.get(key) is not None:
            found[section] = {**part, key: keep(part[key])}
    backbone = found.get("backbone") or {}
    found["backbone"] = {key: _kept_weights(key, value) for key, value in backbone.items()}
    return found if backbone else {key: value for key, value in found.items() if key != "backbone"}


def _kept_weights(key: str, value: Any) -> Any:
    weights = isinstance(value, str) and (key == "weights" or key.endswith("_weights"))
    return kept_place(value) if weights else value


def without_given(stages: Sequence[Any], given: Mapping[str, Any]) -> list[Any]:
    """The stages without what ``given`` sets, so that it holds in all of them.

    >>> without_given([{"name": "a", "trainer": {"lr": 1, "seed": 2}}], {"trainer": {"lr": 3}})
    [{'name': 'a', 'trainer': {'seed': 2}}]
    """
    return [_without(stage, given) if isinstance(stage, Mapping) else stage for stage in stages]


def _without(tree: Mapping[str, Any], given: Mapping[str, Any]) -> Tree:
    found: Tree = {}
    for key, value in tree.items():
        if key not in given:
            found[key] = value
        elif isinstance(given[key], Mapping):
            if isinstance(value, list):
                raise VaderError(
                    f"-o {key}.NAME.K: a stage has a list `{key}` of its own: write -o stages.N.{key}.NAME.K"
                )
            if isinstance(value, Mapping):
                found[key] = _without(value, given[key])
    return found


def newest_stage(run: Path) -> Path:
    """The directory of the last stage of ``run`` that has begun; ``run`` itself where it has no stages."""
    folders = [path for path in (run / STAGES).glob("*") if path.name.isdigit() and (path / CONFIG).is_file()]
    return max(folders, key=lambda path: int(path.name), default=run)


def newest_trained(run: Path) -> Path:
    """The directory whose checkpoints hold the newest weights of ``run``: its own, or a stage's."""
    from vader_core.run.checkpoint import checkpoints

    stage = newest_stage(run)
    while stage != run and not checkpoints(stage / "checkpoints") and stage.name != "1":
        stage = stage_folder(run, int(stage.name) - 1)
    return stage


def parent_of(folder: Path) -> Path | None:
    """The run that ``folder`` is a stage of, or ``None``."""
    whole = folder.absolute()
    run = whole.parent.parent
    inside = whole.name.isdigit() and whole.parent.name == STAGES
    return run if inside and (run / CONFIG).is_file() else None


def is_done(folder: Path) -> bool:
    """Whether the run in ``folder`` has come to its end."""
    return (folder / SUMMARY).is_file()


def sweep_torn(folder: Path) -> None:
    """Remove what was killed before its settings were written, so that it can begin anew."""
    if folder.is_dir() and not (folder / CONFIG).is_file():
        shutil.rmtree(folder)
