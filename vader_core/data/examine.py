"""A table's rows looked at before training: what each clip holds, or why it cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from vader_core.data.clips import probe
from vader_core.data.tables import Row
from vader_core.errors import VaderError
from vader_core.prompts import Shape

# A rate must be known to turn seconds into frames; pictures have none.
_PICTURE = 1


@dataclass(frozen=True)
class Examined:
    """One row, looked at.

    Args:
        row: The row.
        shape: What the clip between ``start`` and ``end`` holds; ``None`` where there is a problem.
        problem: Why it cannot be used; the part before a colon names the kind.
        unreadable: Whether the file is to blame, and not what the row says or asks.
    """

    row: Row
    shape: Shape | None = None
    problem: str | None = None
    unreadable: bool = False


def examine(
    rows: Iterable[Row], *, check: bool = False, looked_at: Callable[[int], None] | None = None
) -> list[Examined]:
    """Look at every row, opening only the files whose sizes the table does not say.

    Args:
        rows: Of a table or folder.
        check: Open every file and read all its packets, so that files that were cut off are found.
        looked_at: Told how many rows are done, after each.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        found.append(_examined(row, check))
        if looked_at is not None:
            looked_at(number)
    return found


def _examined(row: Row, check: bool) -> Examined:
    if row.problem is not None:
        return Examined(row, problem=row.problem, unreadable=row.problem == "no such file")
    known = row.shape
    # Seconds say nothing about frames without a rate.
    usable = known is not None and (row.kind == "image" or known.fps is not None)
    try:
        shape = known if known is not None and usable and not check else probe(row.path, check=check)
    except VaderError as error:
        return Examined(row, problem=str(error).replace(str(row.path), row.path.name), unreadable=True)
    clip = within(shape, row.start, row.end)
    if clip is None:
        return Examined(row, problem=f"it ends before the clip begins: {row.start:g} s")
    return Examined(row, clip)


def within(shape: Shape, start: float, end: float | None) -> Shape | None:
    """What lies between ``start`` and ``end`` seconds of a file; ``None`` where there is no frame.

    >>> within(Shape(100, 4, 4, fps=10), 2.0, 4.5).frames
    25
    """
    if shape.fps is None or shape.frames == _PICTURE:
        return shape
    last = shape.frames if end is None else min(shape.frames, round(end * shape.fps))
    frames = last - round(start * shape.fps)
    return replace(shape, frames=frames) if frames > 0 else None
