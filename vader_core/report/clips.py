"""The clips, side by side: the same prompt and noise before and after."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from vader_core.run.record import Clip, Record, Samples

#: At most so many prompts are shown side by side; the rest stays in the samples folder.
MOST_PAIRS = 24


@dataclass(frozen=True)
class Side:
    """One clip.

    Args:
        label: Of which model it is.
        prompt: What was asked for.
        data: Its mp4, in base64.
        scores: Score by reward.
        is_last: Whether the last validation made it.
    """

    label: str
    prompt: str
    data: str
    scores: dict[str, float]
    is_last: bool


@dataclass(frozen=True)
class Pair:
    """A prompt with a clip of every shown validation, the last one's on the right.

    Args:
        prompt: What was asked for.
        seed: Number of its seed.
        sides: The clips.
    """

    prompt: str
    seed: int | None
    sides: list[Side]


@dataclass(frozen=True)
class Gallery:
    """All clips of the page.

    Args:
        pairs: At most ``MOST_PAIRS``.
        total: How many there are.
        columns: Validations that are shown.
        with_seeds: Whether a prompt comes with more than one seed.
        unreadable: Clips whose file could not be read; one sentence each.
    """

    pairs: list[Pair]
    total: int
    columns: int
    with_seeds: bool
    unreadable: list[str]


def gallery(record: Record) -> Gallery | None:
    """The base model's clips, the best step's where an alarm was raised, and the last validation's."""
    if not record.samples:
        return None
    last = record.samples[-1]
    chosen = [samples for samples in record.samples if samples.step in (0, record.best_step())]
    shown = [samples for samples in chosen if samples is not last] + [last]
    unreadable: list[str] = []
    return Gallery(
        pairs=[
            Pair(clip.prompt, clip.seed, _sides(record, clip, shown, unreadable))
            for clip in last.clips[:MOST_PAIRS]
        ],
        total=len(last.clips),
        columns=len(shown),
        with_seeds=len({clip.seed for clip in last.clips}) > 1,
        unreadable=unreadable,
    )


def _sides(record: Record, clip: Clip, shown: Sequence[Samples], unreadable: list[str]) -> list[Side]:
    sides = []
    for samples in shown:
        label = "base model" if samples.step == 0 else f"step {samples.step}"
        for found in samples.clips:
            if (found.prompt, found.seed) != (clip.prompt, clip.seed):
                continue
            try:
                data = base64.b64encode(found.path.read_bytes()).decode("ascii")
            except OSError as error:
                place = found.path.relative_to(record.folder)
                unreadable.append(f"{place}: cannot be read ({error.strerror})")
                continue
            sides.append(Side(label, found.prompt, data, found.scores, samples is shown[-1]))
    return sides
