"""What a run directory says, read for the page."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.run.directory import CONFIG, ENVIRONMENT, SUMMARY, Run

#: One curve: (step, value), finite, ascending.
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Clip:
    """One sample of a validation.

    Args:
        path: Its mp4.
        prompt: What was asked for.
        seed: Number of the seed, where the run noted it.
        scores: Score by reward.
    """

    path: Path
    prompt: str
    seed: int | None
    scores: dict[str, float]


@dataclass(frozen=True)
class Samples:
    """The samples of one validation.

    Args:
        step: When they were made; 0 is the base model.
        clips: In the order of their prompts.
    """

    step: int
    clips: list[Clip]


@dataclass(frozen=True)
class Record:
    """A run, as far as it went.

    Args:
        folder: The run directory.
        config: The text of ``config.yaml``.
        tree: The same, read.
        environment: Versions and devices.
        summary: Closing figures; empty where the run has not ended.
        train: One record a step.
        validations: One record a validation.
        alarms: One record an alarm.
        samples: By step, ascending.
    """

    folder: Path
    config: str
    tree: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    train: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    samples: list[Samples] = field(default_factory=list)

    @property
    def rewards(self) -> list[str]:
        """Names of the trained rewards."""
        return [str(item["name"]) for item in self.tree.get("rewards") or []]

    @property
    def monitors(self) -> list[str]:
        """Names of the rewards that are only watched."""
        named = [str(item["name"]) for item in self.tree.get("monitors") or []]
        seen = [name for record in self.validations for name in record.get("monitors") or {}]
        return list(dict.fromkeys(named + seen))

    @property
    def clips_are_small(self) -> bool:
        """Whether single pixels should stay visible when a clip is enlarged."""
        width = (self.tree.get("video") or {}).get("width")
        return isinstance(width, int) and width <= 160

    def steps(self) -> int:
        """Optimizer steps made."""
        return int(self.summary.get("steps", self.train[-1]["step"] if self.train else 0))

    def seconds(self) -> float:
        """Seconds of training."""
        if "train_seconds" in self.summary:
            return float(self.summary["train_seconds"])
        return sum(float(record.get("seconds", 0.0)) for record in self.train)

    def queries(self) -> int | None:
        """Reward queries, where the run counted them."""
        if "reward_queries" in self.summary:
            return int(self.summary["reward_queries"])
        counted = [record["reward_queries"] for record in self.train if "reward_queries" in record]
        return int(counted[-1]) if counted else None

    def best_step(self) -> int | None:
        """The step that ``checkpoints/best`` holds, where an alarm makes it differ from the last."""
        best = self.summary.get("best_step")
        return int(best) if self.alarms and best else None

    def seconds_a_step(self) -> float | None:
        """Median over the steps."""
        values = [float(record["seconds"]) for record in self.train if "seconds" in record]
        return statistics.median(values) if values else None

    def memory_gib(self) -> float | None:
        """Largest peak of any step."""
        values = [
            float(record["memory_gib"]) for record in self.train if record.get("memory_gib") is not None
        ]
        return max(values) if values else None

    def skipped(self) -> int:
        """Steps whose loss or gradient was not finite."""
        return sum(bool(record.get("skipped")) for record in self.train)


def curve(records: list[dict[str, Any]], *path: str) -> Curve:
    """The finite values at ``path`` of each record, over its step.

    >>> curve([{"step": 1, "rewards": {"hps": 0.5}}, {"step": 2}], "rewards", "hps")
    [(1.0, 0.5)]
    """
    found: Curve = []
    for record in records:
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float) and math.isfinite(value):
            found.append((float(record.get("step", 0)), float(value)))
    return found


def read_record(folder: Path) -> Record:
    """Read a run directory; what the run has not written yet is left empty.

    Raises:
        VaderError: Not a run directory, or a file in it that cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise VaderError(f"{folder} is not a run directory: it has no {CONFIG}")
    import yaml

    config = path.read_text(encoding="utf-8")
    try:
        tree = yaml.safe_load(config) or {}
    except yaml.YAMLError as error:
        raise VaderError(f"{path} is not YAML: {error}") from error
    metrics = Run(folder).metrics()
    return Record(
        folder=folder,
        config=config,
        tree=tree if isinstance(tree, dict) else {},
        environment=_object(folder / ENVIRONMENT),
        summary=_object(folder / SUMMARY),
        train=[record for record in metrics if record.get("kind") == "train"],
        validations=[record for record in metrics if record.get("kind") == "validation"],
        alarms=[record for record in metrics if record.get("kind") == "alarm"],
        samples=_samples(folder / "samples"),
    )


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VaderError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise VaderError(f"{path} must hold a JSON object")
    return found


def _samples(folder: Path) -> list[Samples]:
    found = []
    for place in sorted(folder.glob("step-*")):
        number = place.name.removeprefix("step-")
        listed = place / "prompts.json"
        if not number.isdigit() or not listed.is_file():
            continue
        try:
            entries = json.loads(listed.read_text(encoding="utf-8"))
        except ValueError as error:
            raise VaderError(f"{listed} is not JSON: {error}") from error
        found.append(Samples(int(number), _clips(place, entries)))
    return sorted(found, key=_step)


def _clips(place: Path, entries: list[dict[str, Any]]) -> list[Clip]:
    clips = [
        Clip(
            path=place / f"{index:02d}.mp4",
            prompt=str(entry.get("prompt", "")),
            seed=entry.get("seed"),
            scores={name: float(value) for name, value in (entry.get("scores") or {}).items()},
        )
        for index, entry in enumerate(entries)
    ]
    return [clip for clip in clips if clip.path.is_file()]


def _step(samples: Samples) -> int:
    return samples.step
