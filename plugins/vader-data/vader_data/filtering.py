"""Which scores are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .manifest import Row, rejected
from .plan import CutOptions, ScorerPlan

STAGE = "filter"


def passes(value: float | None, bounds: ScorerPlan) -> bool:
    """Whether a score lies within its bounds.

    >>> passes(3.0, ScorerPlan(scorer="farneback", min=3.0, max=8.0, exclusive=True))
    False
    """
    if value is None:
        return bounds.missing_passes or (bounds.min is None and bounds.max is None)
    if bounds.exclusive:
        above = bounds.min is None or value > bounds.min
        return above and (bounds.max is None or value < bounds.max)
    return (bounds.min is None or value >= bounds.min) and (bounds.max is None or value <= bounds.max)


def why(name: str, value: float | None, bounds: ScorerPlan) -> str:
    """The reason of a rejection, the same words for all clips below a bound and for all above it.

    >>> why("aes", 3.2, ScorerPlan(scorer="reward", min=4.0))
    'aes below 4'
    """
    if value is None:
        return f"{name} could not be scored"
    if bounds.min is not None and (value < bounds.min or (bounds.exclusive and value == bounds.min)):
        return f"{name} {'not above' if bounds.exclusive else 'below'} {bounds.min:g}"
    return f"{name} {'not below' if bounds.exclusive else 'above'} {bounds.max:g}"


def by_score(rows: Sequence[Row], name: str, bounds: ScorerPlan) -> list[Row]:
    """Reject the rows whose score lies outside its bounds; images are never scored and stay.

    Args:
        rows: With the column ``name``; a missing column is a missing score.
        name: Column.
        bounds: Which values are kept.
    """
    return [
        row
        if row["reject_reason"] or row["type"] != "video" or passes(row.get(name), bounds)
        else rejected(row, f"{STAGE} {name}", why(name, row.get(name), bounds))
        for row in rows
    ]


def by_length(row: Row, options: CutOptions) -> Row:
    """Reject a clip with too few or too many frames, as written."""
    count = row["num_frames"]
    if options.min_frames is not None and count < options.min_frames:
        return rejected(row, "cut", f"fewer than {options.min_frames} frames")
    if options.max_frames is not None and count > options.max_frames:
        return rejected(row, "cut", f"more than {options.max_frames} frames")
    return row


def again(rows: Sequence[Row], bounds: Mapping[str, ScorerPlan]) -> list[Row]:
    """Filter a finished table anew: earlier rejections by a score are forgotten, all others stay."""
    fresh = [
        {**row, "reject_stage": None, "reject_reason": None}
        if (row["reject_stage"] or "").startswith(f"{STAGE} ")
        else row
        for row in rows
    ]
    for name, bound in bounds.items():
        fresh = by_score(fresh, name, bound)
    return fresh
