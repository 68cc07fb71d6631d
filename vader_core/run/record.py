"""What a run directory says, read for the page."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.paths import without_folder
from vader_core.printable import printable
from vader_core.run.handed_on import command_word, handed_on
from vader_core.run.names import ABOUT, CONFIG, ENVIRONMENT, METRICS, SUMMARY
from vader_core.run.reader import Reader

#: One curve: (step, value), finite, ascending.
Curve = list[tuple[float, float]]

_STEP = re.compile(r"step-([0-9]{1,12})")
#: What a metrics record may hold, by type.
_FIGURES = ("loss", "grad_norm", "learning_rate", "seconds", "memory_gib")
_TABLES = ("rewards", "monitors", "watch")


@dataclass(frozen=True)
class Clip:
    """One sample of a validation.

    Args:
        path: Its mp4.
        prompt: What was asked for.
        seed: Number of the seed, where the run noted it.
        scores: Score by reward.
        picture: The picture that it starts from, small, within the run directory.
    """

    path: Path
    prompt: str
    seed: int | None
    scores: dict[str, float]
    picture: Path | None = None


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
class Setup:
    """What the configuration says that the page shows; ``None`` where it does not say.

    Args:
        backbone: Name.
        size: Height, width and frames of a video, as text.
        sampler: Name.
        num_steps: Sampling steps.
        gradient: Through which of them the gradient flows.
        prompts: The source.
        rewards: Names of the trained rewards.
        monitors: Names of the rewards that are only watched.
        clips_are_small: Whether single pixels should stay visible when a clip is enlarged.
        data: The clips that were learned from.
    """

    backbone: str | None
    size: str | None
    sampler: str | None
    num_steps: str | None
    gradient: str | None
    prompts: str | None
    rewards: list[str]
    monitors: list[str]
    clips_are_small: bool
    data: str | None = None


@dataclass(frozen=True)
class Outcome:
    """One reward in the closing evaluation.

    Args:
        base: Mean score of the base model.
        tuned: Mean score of the tuned one.
        difference: Tuned minus base.
        low: Lower end of its 95 % interval.
        high: Upper end.
        win_rate: Share of pairs in which the tuned model is better, in [0, 1].
    """

    base: float
    tuned: float
    difference: float
    low: float
    high: float
    win_rate: float


@dataclass(frozen=True)
class Summary:
    """Closing figures; nothing in it where the run has not ended.

    Args:
        steps: Optimizer steps.
        train_seconds: Seconds of training.
        reward_queries: Videos scored.
        best_step: What ``checkpoints/best`` holds.
        pairs: Pairs of prompt and seed in the evaluation.
        held_out: Whether the pairs' prompts were never trained on.
        evaluation: By reward.
        other_seconds: Further durations, by their key without ``_seconds``.
    """

    steps: int | None = None
    train_seconds: float | None = None
    reward_queries: int | None = None
    best_step: int | None = None
    pairs: int | None = None
    held_out: bool = True
    evaluation: dict[str, Outcome] = field(default_factory=dict)
    other_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Alarm:
    """An alarm that the watch raised.

    Args:
        step: When.
        message: In words.
    """

    step: int
    message: str


@dataclass(frozen=True)
class Record:
    """A run, as far as it went. Texts are data of unknown origin, without control characters.

    Args:
        folder: The run directory.
        config: The text of ``config.yaml``, its files by name alone.
        setup: What is shown of it.
        environment: Versions and devices, as text.
        summary: Closing figures; empty where the run has not ended.
        train: One record a step.
        validations: One record a validation.
        alarms: One record an alarm.
        samples: By step, ascending.
        omissions: What was left out, and why; one sentence each.
        about: A line on each component, by its name.
    """

    folder: Path
    config: str
    setup: Setup
    environment: dict[str, str]
    summary: Summary
    train: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    alarms: list[Alarm]
    samples: list[Samples] = field(default_factory=list)
    omissions: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def shown_folder(self) -> str:
        """The run directory, as a command line names it from beside it."""
        return printable(self.folder.as_posix() if not self.folder.is_absolute() else self.name)

    @property
    def name(self) -> str:
        """Name of the run directory."""
        return printable(self.folder.resolve().name)

    @property
    def rewards(self) -> list[str]:
        """Names of the trained rewards."""
        return self.setup.rewards

    @property
    def monitors(self) -> list[str]:
        """Names of the rewards that are only watched."""
        seen = [name for record in self.validations for name in record["monitors"]]
        return list(dict.fromkeys(self.setup.monitors + seen))

    def steps(self) -> int:
        """Optimizer steps made."""
        if self.summary.steps is not None:
            return self.summary.steps
        return int(self.train[-1]["step"]) if self.train else 0

    def seconds(self) -> float:
        """Seconds of training."""
        if self.summary.train_seconds is not None:
            return self.summary.train_seconds
        return sum(self._train("seconds"))

    def queries(self) -> int | None:
        """Reward queries, where the run counted them; ``None`` as well where there is no reward to ask."""
        counted: float | None = self.summary.reward_queries
        if counted is None:
            counted = next(iter(self._train("reward_queries")[::-1]), None)
        return None if counted is None or not (counted or self.rewards) else int(counted)

    def best_step(self) -> int | None:
        """The step that ``checkpoints/best`` holds, where an alarm makes it differ from the last."""
        return (self.summary.best_step or None) if self.alarms else None

    def seconds_a_step(self) -> float | None:
        """Median over the steps."""
        values = self._train("seconds")
        return statistics.median(values) if values else None

    def memory_gib(self) -> float | None:
        """Largest peak of any step."""
        return max(self._train("memory_gib"), default=None)

    def skipped(self) -> int:
        """Steps whose loss or gradient was not finite."""
        return sum(record["skipped"] for record in self.train)

    def _train(self, name: str) -> list[float]:
        return [record[name] for record in self.train if name in record]


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

    Whatever the files say is taken as data. A value of the wrong type, a clip that is missing, and a file
    that is a link out of the run directory are left out and named in ``omissions``.

    Raises:
        VaderError: Not a run directory, or a file in it that cannot be read.
    """
    reader = Reader(folder)
    path = reader.find(CONFIG)
    if path is None:
        raise VaderError(f"{folder} is not a run directory: it has no {CONFIG}")
    config = reader.text(path)
    setup = _setup(reader, reader.yaml_mapping(path, config))
    environment = _environment(reader)
    summary = _summary(reader)
    metrics = _metrics(reader)
    about = {
        printable(name): reader.word(line, ABOUT, name) for name, line in reader.json_object(ABOUT).items()
    }
    return Record(
        folder=folder,
        config=printable(handed_on(config)),
        setup=setup,
        environment=environment,
        summary=summary,
        train=[record for record in metrics if record["kind"] == "train"],
        validations=[record for record in metrics if record["kind"] == "validation"],
        alarms=[Alarm(record["step"], record["message"]) for record in metrics if record["kind"] == "alarm"],
        samples=_samples(reader),
        omissions=reader.omissions(),
        about={name: line for name, line in about.items() if line},
    )


# -- file by file --------------------------------------------------------------------------------------------


def _setup(reader: Reader, tree: dict[Any, Any]) -> Setup:
    def word(*keys: str) -> str | None:
        value: Any = tree
        for depth, key in enumerate(keys):
            value = reader.mapping(value, CONFIG, ".".join(keys[:depth])).get(key)
        return reader.word(value, CONFIG, ".".join(keys))

    def place(*keys: str) -> str | None:
        found = word(*keys)
        return None if found is None else without_folder(found)

    def names(key: str) -> list[str]:
        entries = reader.items(tree.get(key), CONFIG, key)
        found = [
            reader.word(reader.mapping(entry, CONFIG, f"{key}.{index}").get("name"), CONFIG, f"{key}.{index}")
            for index, entry in enumerate(entries)
        ]
        return [name for name in found if name]

    height, width, frames = (word("video", key) for key in ("height", "width", "num_frames"))
    return Setup(
        backbone=word("backbone", "name"),
        size=f"{height}×{width}, {frames} frames" if height else None,
        sampler=word("sampler", "name"),
        num_steps=word("sampler", "num_steps"),
        gradient=word("objective", "reward_gradient", "gradient"),
        prompts=place("prompts", "source"),
        rewards=names("reward"),
        monitors=names("monitor"),
        clips_are_small=width is not None
        and re.fullmatch("[0-9]{1,3}", width) is not None
        and int(width) <= 160,
        data=place("data", "source"),
    )


def _environment(reader: Reader) -> dict[str, str]:
    found = {
        printable(name): reader.words(_named(name, value), ENVIRONMENT, name)
        for name, value in reader.json_object(ENVIRONMENT).items()
    }
    return {name: value for name, value in found.items() if value}


def _named(name: str, value: Any) -> Any:
    """A value of the environment, with the name alone of every file in it."""
    if name == "config" and isinstance(value, str):
        return handed_on(value)
    if name == "command" and isinstance(value, list):
        return [command_word(word) if isinstance(word, str) else word for word in value]
    return value


def _summary(reader: Reader) -> Summary:
    found = reader.json_object(SUMMARY)

    def whole(key: str) -> int | None:
        return reader.whole(found.get(key), SUMMARY, key)

    evaluation = {
        name: _outcome(reader, value, f"evaluation.{name}")
        for name, value in reader.mapping(found.get("evaluation"), SUMMARY, "evaluation").items()
    }
    durations = {
        printable(name).removesuffix("_seconds"): reader.number(value, SUMMARY, name)
        for name, value in found.items()
        if name.endswith("_seconds") and name != "train_seconds"
    }
    return Summary(
        steps=whole("steps"),
        train_seconds=reader.number(found.get("train_seconds"), SUMMARY, "train_seconds"),
        reward_queries=whole("reward_queries"),
        best_step=whole("best_step"),
        pairs=whole("pairs"),
        held_out=found.get("held_out") is not False,
        evaluation={name: outcome for name, outcome in evaluation.items() if outcome is not None},
        other_seconds={name: value for name, value in durations.items() if value is not None},
    )


def _outcome(reader: Reader, value: Any, where: str) -> Outcome | None:
    row = reader.mapping(value, SUMMARY, where)
    interval = reader.items(row.get("ci95"), SUMMARY, f"{where}.ci95")
    figures = {key: row.get(key) for key in ("base", "tuned", "difference", "win_rate")}
    if len(interval) == 2:
        figures |= {"low": interval[0], "high": interval[1]}
    found = {key: reader.number(figure, SUMMARY, f"{where}.{key}") for key, figure in figures.items()}
    complete = {key: figure for key, figure in found.items() if figure is not None}
    if len(complete) < 6:
        reader.leave_out(SUMMARY, f"{where} is not complete: base, tuned, difference, two of ci95, win_rate")
        return None
    return Outcome(**complete)


def _metrics(reader: Reader) -> list[dict[str, Any]]:
    found = []
    for where, line in reader.json_lines(METRICS):
        step = reader.whole(line.get("step"), METRICS, f"{where}: step")
        if step is None or line.get("kind") not in ("train", "validation", "alarm"):
            reader.leave_out(METRICS, f"{where} has no step, or is of no known kind")
            continue
        record: dict[str, Any] = {"kind": line["kind"], "step": step}
        record["skipped"] = reader.truth(line.get("skipped"), METRICS, f"{where}: skipped")
        record["message"] = reader.word(line.get("message"), METRICS, f"{where}: message") or ""
        figures = {key: reader.number(line.get(key), METRICS, f"{where}: {key}") for key in _FIGURES}
        figures["reward_queries"] = reader.whole(
            line.get("reward_queries"), METRICS, f"{where}: reward_queries"
        )
        record |= {key: figure for key, figure in figures.items() if figure is not None}
        record |= {key: reader.numbers(line.get(key), METRICS, f"{where}: {key}") for key in _TABLES}
        found.append(record)
    return found


def _samples(reader: Reader) -> list[Samples]:
    found = []
    for place in sorted((reader.folder / "samples").glob("step-*")):
        step = _STEP.fullmatch(place.name)
        listed = f"samples/{place.name}/prompts.json"
        path = reader.find(listed) if step else None
        if step is None or path is None:
            continue
        entries = reader.json(path)
        if not isinstance(entries, list):
            raise VaderError(f"{path} must hold a JSON list, one object a clip")
        clips = [_clip(reader, listed, index, entry) for index, entry in enumerate(entries)]
        found.append(Samples(int(step[1]), [clip for clip in clips if clip is not None]))
    return sorted(found, key=_step)


def _clip(reader: Reader, listed: str, index: int, value: Any) -> Clip | None:
    name = f"{listed.removesuffix('prompts.json')}{index:02d}.mp4"
    path = reader.find(name, expected=True)
    if path is None:
        return None
    entry = reader.mapping(value, listed, f"clip {index}")
    picture = reader.word(entry.get("picture"), listed, f"clip {index}: picture")
    inside = None if picture is None else reader.find(f"{Path(listed).parent}/{picture}")
    return Clip(
        path=path,
        prompt=reader.word(entry.get("prompt"), listed, f"clip {index}: prompt") or "",
        seed=reader.whole(entry.get("seed"), listed, f"clip {index}: seed"),
        scores=reader.numbers(entry.get("scores"), listed, f"clip {index}: scores"),
        picture=inside if inside is not None and inside.suffix == ".jpg" else None,
    )


def _step(samples: Samples) -> int:
    return samples.step
