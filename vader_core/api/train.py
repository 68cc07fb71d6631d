"""A whole training run: begin it, or continue it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vader_core.api.configure import complete
from vader_core.api.plan import plan_facts, require_trainable
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import load_parts, related_judges
from vader_core.assembly.parallel import in_processes
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.assembly.trial import try_rewards
from vader_core.errors import VaderError
from vader_core.paths import entered
from vader_core.progress import counted, unseen
from vader_core.registry import Registry, load_registry
from vader_core.report import write_report
from vader_core.run.checkpoint import newest_whole, prune, read_checkpoint, restoring, step_of
from vader_core.run.config import RunConfig, SeamSection
from vader_core.run.directory import Run
from vader_core.run.layers import changes, default_out
from vader_core.run.names import ABOUT, CONFIG, SUMMARY
from vader_core.run.stages import (
    ALONE,
    Place,
    Stage,
    is_done,
    parent_of,
    stage_folder,
    stages_of,
    sweep_torn,
    with_kept_paths,
)
from vader_core.run.tracking import LaterListener, Listener, Silence, require_trackers
from vader_core.training.joined import agree, join
from vader_core.training.opening import Opening
from vader_core.training.processes import SingleProcess
from vader_core.training.seam import take_over
from vader_core.training.setup import make_trainer
from vader_core.training.signals import StoppedError as StoppedError
from vader_core.training.texts import encode_up_front
from vader_core.training.trainer import Trainer


def train(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool | Literal["auto"] = False,
    allow_changes: bool = False,
    registry: Registry | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Run a training to its end and write its report.

    In a process that a launcher started, it is trained together with the others.

    Args:
        config: What was asked for.
        out: The run directory; of an existing run where ``resume`` is set.
        overwrite: Replace an existing run.
        resume: Continue the run in ``out``; ``auto``: where there is one, else begin it.
        allow_changes: Continue although the configuration differs.
        registry: Where the components come from; the installed plugins by default.
        listener: Hears of progress; ``phase`` is optional.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        VaderError: Anything that cannot be done, before anything heavy where possible.
        StoppedError: A signal asked to stop; the checkpoint is written.
    """
    registry, listener = registry or load_registry(), listener or Silence()
    folder = default_out(config) if out is None else entered(out)
    if resume and (whole := parent_of(folder)) is not None:
        raise VaderError(
            f"--resume {folder}: this is a stage of another run; continue that: --resume {whole}"
        )
    opening = Opening(folder, overwrite=overwrite, resume=resume, allow_changes=allow_changes)
    if config.stages:
        return _train_stages(config, opening, registry, listener)
    assembly = ready(config, registry, listener)
    return _train_alone(assembly, opening, listener)


def ready(config: RunConfig, registry: Registry, listener: Listener) -> Assembly:
    """The parts of a run without stages, checked before anything heavy.

    Raises:
        VaderError: Anything that cannot be done.
    """
    assembly = prepare(complete(config, registry), registry)
    require_trainable(assembly)
    assembly.progress = getattr(listener, "phase", unseen)  # who only hears of records need not have it
    require_trackers(assembly.config.run.trackers)
    return assembly


def _train_alone(
    assembly: Assembly, opening: Opening, listener: Listener, begin: Begin | None = None
) -> dict[str, Any]:
    """One run, or one stage of a run."""
    processes = join(assembly)
    agree(processes, assembly.config, opening.folder)
    assembly.mesh = processes.mesh
    with processes.together(), opening.opened(assembly.config, processes, listener) as run:
        assembly.config = in_processes(assembly.config, processes.layout)
        with process_switches(assembly.config):
            return _train(assembly, opening, run, processes, listener, begin or Begin())


@dataclass(frozen=True)
class Begin:
    """Where a run stands among the stages of another, and what it takes over.

    Args:
        place: Steps before it.
        seam: What is taken over; ``None`` where nothing was before.
        before: The run directory of the stage before.
    """

    place: Place = ALONE
    seam: SeamSection | None = None
    before: Path | None = None


def _train_stages(
    config: RunConfig, opening: Opening, registry: Registry, listener: Listener
) -> dict[str, Any]:
    """Every stage as a run of its own within the run's directory; what is done stays as it is."""
    stages = stages_of(config)
    waiting = {stage.number: ready(stage.config, registry, listener) for stage in stages}
    processes = join(waiting[1])
    whole = with_kept_paths(config)
    agree(processes, whole, opening.folder)
    with processes.together(), opening.opened(whole, processes, listener) as run:
        first = processes.from_first(0 if run is None else _first_open(run.folder, stages, waiting))
        for stage in stages[first - 1 :]:
            folder = stage.folder(opening.folder)
            if processes.first:
                sweep_torn(folder)
                listener.say(f"{stage.name} ({stage.number} of {len(stages)})")
            own = Opening(
                folder,
                overwrite=False,
                resume=processes.from_first((folder / CONFIG).is_file()),
                allow_changes=opening.allow_changes,
            )
            before = stage_folder(opening.folder, stage.number - 1) if stage.seam is not None else None
            heard = LaterListener(listener, stage.place.before)
            _train_alone(waiting.pop(stage.number), own, heard, Begin(stage.place, stage.seam, before))
        summary = None
        if run is not None:
            summary = _whole_summary(run.folder, stages)
            run.write_summary(summary)
            write_report(run.folder)
        return dict(processes.from_first(summary))


def _first_open(folder: Path, stages: Sequence[Stage], prepared: Mapping[int, Assembly]) -> int:
    """The number of the first stage that has something left to do.

    Raises:
        VaderError: Another configuration is asked for in a stage that is done.
    """
    first = 1
    for stage in reversed(stages):
        own = stage.folder(folder)
        if not (own / CONFIG).is_file():
            continue
        place, _ = newest_whole(own / "checkpoints")
        if place is None and stage.number > 1:
            continue
        done = place is not None and is_done(own) and step_of(place) == _summary_of(own)["steps"]
        first = stage.number + done
        break
    for stage in stages[: first - 1]:
        different = changes(Run(stage.folder(folder)).recorded(), prepared[stage.number].config)
        if different:
            raise VaderError(
                f"{stage.name} is done, so its settings cannot change any more: {'; '.join(different)}. "
                "Leave them out, or train anew"
            )
    return first


def _whole_summary(folder: Path, stages: Sequence[Stage]) -> dict[str, Any]:
    """The last stage's result with the figures of all of them."""
    every = [_summary_of(stage.folder(folder)) for stage in stages]
    counted = ("train_seconds", "steps", "reward_queries", "skipped_steps")
    named = [{"name": stage.name, **one} for stage, one in zip(stages, every, strict=True)]
    best = every[-1]["best_step"]
    return {**every[-1], **{key: sum(one[key] for one in every) for key in counted}} | {
        "best_step": None if best is None else best + stages[-1].place.before,
        "stages": named,
    }


def _summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return found


def _train(
    assembly: Assembly,
    opening: Opening,
    run: Run | None,
    processes: SingleProcess,
    listener: Listener,
    begin: Begin,
) -> dict[str, Any]:
    if run is not None:
        run.write(ABOUT, json.dumps(about(assembly), indent=1) + "\n")
        listener.plan(plan_facts(assembly, processes.count))
        if assembly.config.data.source is not None:
            listener.say(assembly.videos.summary.table())
    assembly.progress("loading the model", 0, 0)
    folder = opening.folder
    place, done = _where_to_begin(assembly.config, opening, processes, listener)
    if done:
        listener.say(
            f"{folder} is finished: nothing is left to do. For more steps give --max-steps N (more than "
            f"{done['steps']}); vader evaluate {folder} compares it anew"
        )
        if run is not None:
            prune(run.checkpoints, assembly.config.run.keep, newest=int(done["steps"]))
            write_report(folder)
        return done
    load_parts(assembly, lambda: encode_up_front(assembly, processes, begin.place.before))
    assembly.progress("trying the rewards", 0, 0)
    try_rewards(assembly)
    if run is not None:
        for warning in related_judges(assembly):
            listener.say(warning)
    trainer = make_trainer(assembly, processes, run, listener, begin.place)
    _go_on(trainer, place, begin)
    if run is not None and opening.resume:
        run.cut_metrics(trainer.step or -1)  # from step 0 the first validation is made again too
        prune(run.checkpoints, assembly.config.run.keep, newest=trainer.step)
    summary = trainer.fit()
    if run is not None:
        assembly.progress("writing the report", 0, 0)
        write_report(run.folder)
    return summary


def about(assembly: Assembly) -> dict[str, str]:
    """A line on each component of a run, by its name, for whoever reads its page."""
    config, get = assembly.config, assembly.registry.get
    named = [get("backbone", str(config.backbone.name))]
    names = [item.name for item in config.reward] + [item.name for item in config.monitor]
    named += [get("reward", name) for name in names]
    return {component.name: component.summary for component in named}


def _where_to_begin(
    config: RunConfig, opening: Opening, processes: SingleProcess, listener: Listener
) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to continue from, and the summary of a run that is finished.

    One process looks and all follow: on a shared file system they could see different folders.
    """
    if not opening.resume:
        return None, {}
    found: tuple[Path | None, dict[str, Any]] = None, {}
    if processes.first:
        place = _checkpoint_to_continue(opening.folder, listener)
        nothing = opening.allow_changes or place is None
        found = place, {} if nothing or place is None else _finished(opening.folder, place, config)
    found = processes.from_first(found)
    return found


def _go_on(trainer: Trainer, place: Path | None, begin: Begin) -> None:
    """Continue from the run's own checkpoint, or take over from the stage before."""
    if place is not None:
        with restoring(place):
            trainer.restore(read_checkpoint(place))
    elif begin.seam is not None and begin.before is not None:
        before = _end_of(begin.before)
        with restoring(before):
            take_over(trainer, read_checkpoint(before), begin.seam)


def _end_of(folder: Path) -> Path:
    """The last checkpoint of the stage before."""
    place, faults = newest_whole(folder / "checkpoints")
    if place is None:
        raise VaderError(
            f"{folder} has no whole checkpoint to go on from: {'; '.join(faults) or 'none at all'}"
        )
    return place


def _finished(folder: Path, place: Path, config: RunConfig) -> dict[str, Any]:
    """The summary of a run whose last step and evaluation are done; empty where something is left to do."""
    summary = Run(folder).summary()
    return summary if summary.get("steps") == step_of(place) == config.trainer.max_steps else {}


def _checkpoint_to_continue(folder: Path, listener: Listener) -> Path | None:
    place, faults = newest_whole(folder / "checkpoints")
    for wrong in faults:
        listener.say(f"checkpoint passed over: {wrong}")
    if place is None:
        listener.say(f"{folder} has no whole checkpoint: starting from step 0")
    else:
        listener.say(f"continuing from {place}")
    return place


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary for a person, one line per reward."""
    lines = [
        f"{counted(summary['steps'], 'step')}, {counted(summary['reward_queries'], 'reward query')}, "
        f"{summary['train_seconds']:.1f} s of training"
    ]
    losses = summary.get("held_out_loss")
    if losses:
        base, tuned = losses["base"]["mean"], losses["tuned"]["mean"]
        lines.append(f"held-out loss: {base:.4g} -> {tuned:.4g} ({tuned - base:+.4g})")
    for stage in summary.get("stages", ()):
        lines.append(f"{stage['name']}: {stage['steps']} steps, {stage['train_seconds']:.1f} s")
    for name, found in summary.get("evaluation", {}).items():
        low, high = found["ci95"]
        lines.append(
            f"{name}: {found['base']:.4g} -> {found['tuned']:.4g} "
            f"({found['difference']:+.4g}, 95 % [{low:+.4g}, {high:+.4g}], won {found['win_rate']:.0%} of "
            "the pairs)"
        )
    return lines
