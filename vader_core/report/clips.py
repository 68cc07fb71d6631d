"""Clips side by side: the same prompt and noise before and after."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vader_core.report.numbers import number
from vader_core.run.record import Clip, Record, Samples

#: At most so many prompts are shown side by side; the rest stays in the samples folder.
MOST_PAIRS = 24

#: Where a page finds a file of a run: inside itself, or at an address.
Source = Callable[[Path], str]

_TYPES = {".mp4": "video/mp4", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Side:
    """One clip.

    Args:
        label: Of which model it is.
        prompt: What was asked for.
        source: Its mp4, as the page's address of it.
        is_last: Whether it is the newest, the one that the others are compared with.
        files: The clip to keep, by form: the page's addresses of it.
    """

    label: str
    prompt: str
    source: str
    is_last: bool
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One reward's score from side to side.

    Args:
        name: The reward.
        values: One per side, in their order; ``None`` where a side has none.
        verdict: ``better`` or ``worse`` from the first to the last, else empty.
    """

    name: str
    values: list[float | None]
    verdict: str


@dataclass(frozen=True)
class Pair:
    """A prompt with one clip or more.

    Args:
        prompt: What was asked for.
        seed: Number of its seed.
        sides: The clips.
        changes: The scores.
        picture: The picture that they start from, as the page's address of it.
        command: The command line that makes the last one again.
        settings: What it was made with, by name.
    """

    prompt: str
    seed: int | None
    sides: list[Side]
    changes: list[Change] = field(default_factory=list)
    picture: str | None = None
    command: str | None = None
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """All clips of the page.

    Args:
        pairs: At most ``MOST_PAIRS``.
        total: How many there are.
        columns: Clips per prompt.
        with_seeds: Whether the seeds are worth showing.
        unreadable: Clips whose file could not be read; one sentence each.
    """

    pairs: list[Pair]
    total: int
    columns: int
    with_seeds: bool
    unreadable: list[str]


def embedded(path: Path) -> str:
    """A file as part of the page.

    Raises:
        OSError: It cannot be read.
    """
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{_TYPES.get(path.suffix, 'application/octet-stream')};base64,{data}"


def changes(scores: Sequence[dict[str, float]]) -> list[Change]:
    """The scores of the sides, reward by reward."""
    found = []
    for name in dict.fromkeys(name for one in scores for name in one):
        values = [one.get(name) for one in scores]
        first, last = values[0], values[-1]
        verdict = ""
        if len(values) > 1 and first is not None and last is not None and number(first) != number(last):
            verdict = "better" if last > first else "worse"
        found.append(Change(name, values, verdict))
    return found


def gallery(record: Record, source: Source = embedded) -> Gallery | None:
    """The base model's clips, the best step's where an alarm was raised, and the last validation's."""
    if not record.samples:
        return None
    last = record.samples[-1]
    chosen = [samples for samples in record.samples if samples.step in (0, record.best_step())]
    shown = [samples for samples in chosen if samples is not last] + [last]
    unreadable: list[str] = []
    return Gallery(
        pairs=[_pair(record, clip, shown, unreadable, source) for clip in last.clips[:MOST_PAIRS]],
        total=len(last.clips),
        columns=len(shown),
        with_seeds=len({clip.seed for clip in last.clips}) > 1,
        unreadable=unreadable,
    )


def _pair(
    record: Record, clip: Clip, shown: Sequence[Samples], unreadable: list[str], source: Source
) -> Pair:
    sides, scores = [], []
    for samples in shown:
        label = "base model" if samples.step == 0 else f"step {samples.step}"
        for found in samples.clips:
            if (found.prompt, found.seed) != (clip.prompt, clip.seed):
                continue
            address = _address(record, found.path, unreadable, source)
            if address is not None:
                sides.append(Side(label, found.prompt, address, samples is shown[-1]))
                scores.append(found.scores)
            break
    picture = None if clip.picture is None else _address(record, clip.picture, unreadable, source)
    return Pair(clip.prompt, clip.seed, sides, changes(scores), picture)


def _address(record: Record, path: Path, unreadable: list[str], source: Source) -> str | None:
    try:
        return source(path)
    except OSError as error:
        place = path.relative_to(record.folder)
        unreadable.append(f"{place}: cannot be read ({error.strerror})")
        return None
