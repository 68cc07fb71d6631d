"""Several models on the same prompts and the same noise."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader_core.api.configure import run_settings
from vader_core.api.open_model import full_checkpoint, scaled_lora, set_strengths
from vader_core.api.sample import MOST_SEEDS, pairs_of, sampling_assembly, watched
from vader_core.assembly.levers import process_switches
from vader_core.assembly.parts import Assembly
from vader_core.errors import VaderError
from vader_core.evaluation.comparison import compare as compare_pairs
from vader_core.evaluation.validation import Pair, score_pairs
from vader_core.evaluation.watch import statistics
from vader_core.paths import entered, run_of
from vader_core.pictures import small_copy
from vader_core.registry import Registry, load_registry
from vader_core.report.clips import Gallery, Side, changes, embedded
from vader_core.report.clips import Pair as ShownPair
from vader_core.report.comparison import Cell, Compared, write_comparison
from vader_core.run.config import RunConfig
from vader_core.run.tracking import Listener, Silence
from vader_core.video import write_video

#: Prompts of a comparison for which nobody says how many.
PROMPTS = 8


@dataclass(frozen=True)
class _Column:
    """One model of a comparison: the adapter ``subject`` at ``scale``; the base model without one."""

    label: str
    subject: int | None
    scale: float


def compare(  # noqa: PLR0913 - what a person can ask for
    subjects: Sequence[str],
    config: RunConfig,
    *,
    out: str | Path,
    rewards: Sequence[str] = (),
    scales: Sequence[float] = (),
    count: int = 1,
    max_prompts: int = PROMPTS,
    batch_size: int = 1,
    registry: Registry | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Sample the base model and each subject with the same noise, score them, and write one page.

    Args:
        subjects: Runs, checkpoints or adapters, each ``L[:SCALE]``.
        config: What is common: model, size, sampling, prompts. Its rewards and monitors score the clips.
        out: The page.
        rewards: Rewards to score with, in place of the configuration's.
        scales: Factors at which each subject is shown, in place of its own: a grid.
        count: Seeds per prompt, from ``trainer.seed`` on.
        max_prompts: Prompts, spread over the source's.
        batch_size: Videos sampled at once.
        registry: Where the components come from; the installed plugins by default.
        listener: Told of each prompt (``{"kind": "clip", "done", "total", "seconds"}``).

    Returns:
        ``columns``, ``pairs``, ``rewards`` (by name, a mean with its paired difference to the base model per
        column), ``statistics`` and the ``page``.

    Raises:
        VaderError: Subjects of different backbones, and whatever else cannot be done.
    """
    registry, listener = registry or load_registry(), listener or Silence()
    if not subjects:
        raise VaderError("nothing to compare: give a run or an adapter")
    if count < 1 or max_prompts < 1 or batch_size < 1:
        raise VaderError("--count, --max-prompts and --batch-size must be 1 or more")
    if count > MOST_SEEDS:
        raise VaderError(f"--count {count} is not allowed: use at most {MOST_SEEDS:,} seeds per prompt")
    _check_backbones(subjects, config)
    own = [item.name for item in config.reward] + [item.name for item in config.monitor]
    names = list(rewards) or own
    columns = _columns(subjects, scales)
    sheets: dict[int, _Sheet] = {}
    with tempfile.TemporaryDirectory() as place:
        for group in _groups(subjects, columns):
            loras = [f"{scaled_lora(subjects[number])[0]}:0" for number in group.subjects]
            listener.phase("loading the model", 0, 0)
            assembly = sampling_assembly(config, loras, registry, names, batch_size)
            pairs = pairs_of(_spread(assembly, max_prompts), config.trainer.seed, count)
            with process_switches(assembly.config), watched(assembly, listener):
                for index in group.columns:
                    _show(assembly, group, columns[index])
                    sheet = sheets[index] = _Sheet(Path(place) / str(index), count)
                    sheet.fill(assembly, pairs, listener, (len(sheets) - 1, len(columns)))
        found = _compared(columns, [sheets[index] for index in range(len(columns))], pairs, assembly)
    page = write_comparison(found, entered(out))
    return _as_dict(found, page)


def _check_backbones(subjects: Sequence[str], config: RunConfig) -> None:
    for text in subjects:
        run = run_of(text)
        if run is None:
            continue
        name = (run_settings(run).get("backbone") or {}).get("name")
        if name and str(name) != str(config.backbone.name):
            raise VaderError(
                f"{text} is a run of backbone {str(name)!r}, the comparison is of {config.backbone.name!r}: "
                "compare runs of one backbone"
            )


def _columns(subjects: Sequence[str], scales: Sequence[float]) -> list[_Column]:
    columns = [_Column("base model", None, 0.0)]
    for number, text in enumerate(subjects):
        place, own = scaled_lora(text)
        name = place if place.startswith("hub:") else _short(Path(place))
        for scale in scales or (own,):
            columns.append(_Column(name if scale == 1 else f"{name} × {scale:g}", number, scale))
    labels = [column.label for column in columns]
    return [
        _Column(f"{column.label} ({subjects[column.subject]})", column.subject, column.scale)
        if column.subject is not None and labels.count(column.label) > 1
        else column
        for column in columns
    ]


def _short(path: Path) -> str:
    """A run's name; for a checkpoint, its run's and its own."""
    if path.parent.name == "checkpoints":
        return f"{path.parent.parent.name}, {path.name}"
    return path.stem if path.is_file() else path.absolute().name


@dataclass(frozen=True)
class _Group:
    """Columns of one loaded model: the base with every adapter, or one whole model.

    Args:
        subjects: Their numbers, in the order in which they are loaded.
        columns: Numbers of the columns.
    """

    subjects: tuple[int, ...]
    columns: tuple[int, ...]


def _groups(subjects: Sequence[str], columns: Sequence[_Column]) -> list[_Group]:
    whole = [number for number, text in enumerate(subjects) if full_checkpoint(scaled_lora(text)[0])]
    together = tuple(number for number in range(len(subjects)) if number not in whole)
    members = [together, *((number,) for number in whole)]
    groups = []
    for own in members:
        shown = {None, *own} if own is together else set(own)
        chosen = tuple(i for i, column in enumerate(columns) if column.subject in shown)
        groups.append(_Group(own, chosen))
    return groups


def _show(assembly: Assembly, group: _Group, column: _Column) -> None:
    """Let the model be the column's from now on."""
    set_strengths(assembly, [column.scale if number == column.subject else 0.0 for number in group.subjects])


def _spread(assembly: Assembly, most: int) -> list[Any]:
    prompts = assembly.every_prompt()
    count = min(most, len(prompts))
    return [prompts[int(index * len(prompts) / count)] for index in range(count)]


class _Sheet:
    """One column's clips, scores and statistics; the videos are on disk."""

    def __init__(self, place: Path, seeds: int) -> None:
        self.place, self.seeds = place, seeds
        self.scores: dict[str, list[Tensor]] = {}
        self.statistics: dict[str, list[float]] = {}

    def fill(
        self, assembly: Assembly, pairs: Sequence[Pair], listener: Listener, position: tuple[int, int]
    ) -> None:
        """Sample the pairs, prompt by prompt."""
        for start in range(0, len(pairs), self.seeds):
            begun = time.perf_counter()
            scored = score_pairs(
                assembly, pairs[start : start + self.seeds], (assembly.monitors,), scope="sample"
            )
            for name, values in scored.scores.items():
                self.scores.setdefault(name, []).append(values)
            for name, value in statistics(scored.videos, self.seeds).items():
                self.statistics.setdefault(name, []).append(value)
            for offset, video in enumerate(scored.videos):
                write_video(video, self.clip(start + offset), assembly.geometry.fps)
            done = position[0] * len(pairs) + start + self.seeds
            seconds = (time.perf_counter() - begun) / self.seeds
            listener.record(
                {"kind": "clip", "done": done, "total": position[1] * len(pairs), "seconds": seconds}
            )

    def clip(self, index: int) -> Path:
        """Where the clip of a pair lies."""
        return self.place / f"{index}.mp4"


def _compared(
    columns: Sequence[_Column], sheets: Sequence[_Sheet], pairs: Sequence[Pair], assembly: Assembly
) -> Compared:
    rewards: dict[str, list[Cell]] = {}
    scores = [{name: torch.cat(parts) for name, parts in sheet.scores.items()} for sheet in sheets]
    for name, base in scores[0].items():
        cells = [Cell(float(base.mean()))]
        for own in scores[1:]:
            one = compare_pairs(base, own[name])
            cells.append(Cell(one.tuned, one.difference, *one.ci95, one.win_rate))
        rewards[name] = cells
    means = {
        name.replace("_", "-"): [
            sum(sheet.statistics[name]) / len(sheet.statistics[name]) for sheet in sheets
        ]
        for name in sheets[0].statistics
    }
    config = assembly.config
    settings = {
        "backbone": str(config.backbone.name),
        "video": str(assembly.geometry),
        "sampler": f"{config.sampler.name}, {config.sampler.num_steps} steps, guidance "
        f"{config.sampler.guidance_scale}",
    }
    labels = [column.label for column in columns]
    return Compared(
        title=" and ".join(dict.fromkeys(labels[1:])) + ", compared",
        columns=labels,
        rewards=rewards,
        statistics=means,
        clips=_gallery(labels, sheets, scores, pairs),
        pairs=len(pairs),
        settings=settings,
        is_small=assembly.geometry.width <= 160,
    )


def _gallery(
    labels: Sequence[str],
    sheets: Sequence[_Sheet],
    scores: Sequence[dict[str, Tensor]],
    pairs: Sequence[Pair],
) -> Gallery:
    shown = []
    for index, pair in enumerate(pairs):
        sides = [
            Side(label, pair.prompt.text, embedded(sheet.clip(index)), sheet is sheets[-1])
            for label, sheet in zip(labels, sheets, strict=True)
        ]
        own = [{name: float(values[index]) for name, values in one.items()} for one in scores]
        picture = None
        if pair.prompt.image is not None:
            place = sheets[0].place
            picture = embedded(place / small_copy(pair.prompt.image, place))
        shown.append(ShownPair(pair.prompt.text, pair.seed, sides, changes(own), picture))
    return Gallery(shown, len(shown), len(labels), with_seeds=True, unreadable=[])


def _as_dict(found: Compared, page: Path) -> dict[str, Any]:
    rewards = {
        name: [
            {
                "mean": cell.mean,
                "difference": cell.difference,
                "ci95": None if cell.low is None else [cell.low, cell.high],
                "win_rate": cell.win_rate,
            }
            for cell in cells
        ]
        for name, cells in found.rewards.items()
    }
    return {
        "columns": found.columns,
        "pairs": found.pairs,
        "rewards": rewards,
        "statistics": found.statistics,
        "page": str(page),
    }
