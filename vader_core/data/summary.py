"""What a run will learn from, said before it begins: what each bucket gets, and why each row was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.progress import counted

# So many of the dropped rows are named in a message; all of them are in the data.
_NAMED = 10


@dataclass(frozen=True)
class Dropped:
    """A row that is not learned from.

    Args:
        number: In the table, from 1.
        path: The file.
        reason: Why; the part before a colon names the kind.
        unreadable: Whether the file is to blame.
    """

    number: int
    path: str
    reason: str
    unreadable: bool

    @property
    def kind(self) -> str:
        """The reason without its particulars."""
        return self.reason.split(":", 1)[0]

    @property
    def words(self) -> str:
        """The row by its number and file, with the particulars."""
        particulars = self.reason.partition(": ")[2]
        name = Path(self.path).name
        return f"row {self.number} ({name}: {particulars})" if particulars else f"row {self.number} ({name})"


@dataclass(frozen=True)
class Share:
    """What one bucket gets in the first pass over the table.

    Args:
        name: The resolution, or ``run`` where every clip is brought to the run's own size.
        frames: Video frames.
        height: Pixels.
        width: Pixels.
        rows: Clips.
        batch_size: Clips per batch and process.
        batches: Batches per pass, over all processes.
    """

    name: str
    frames: int
    height: int
    width: int
    rows: int
    batch_size: int
    batches: int


@dataclass(frozen=True)
class Summary:
    """The whole table.

    Args:
        rows: How many rows it has.
        shares: What each bucket gets, the fullest first.
        dropped: Every other row, in the table's order.
        held_out: How many usable rows are kept for validation.
        repeating: How many clips are slower than the rate they are read at, so that frames repeat.
    """

    rows: int
    shares: tuple[Share, ...]
    dropped: tuple[Dropped, ...]
    held_out: int = 0
    repeating: int = 0

    @property
    def learned(self) -> int:
        """How many rows are learned from."""
        return sum(share.rows for share in self.shares)

    @property
    def unreadable(self) -> tuple[Dropped, ...]:
        """The rows whose files are to blame."""
        return tuple(row for row in self.dropped if row.unreadable)

    @property
    def reasons(self) -> Mapping[str, int]:
        """How many rows were dropped for each kind of reason, the most frequent first."""
        return dict(Counter(row.kind for row in self.dropped).most_common())

    def check(self, limit: float) -> None:
        """Refuse a table that gives nothing, or of which too much cannot be read.

        Args:
            limit: Largest share of the rows that may be unreadable, 0 … 1.

        Raises:
            VaderError: Naming the first bad rows, and what to do.
        """
        bad = self.unreadable
        if len(bad) > limit * self.rows:
            raise VaderError(
                f"{len(bad)} of {counted(self.rows, 'row')} cannot be read, more than "
                f"data.unreadable_limit={limit:g} allows: {listed(bad)}. Repair or remove them, or raise "
                "the limit"
            )
        if not self.learned:
            why = ", ".join(f"{kind} ({count})" for kind, count in self.reasons.items()) or "it is empty"
            raise VaderError(f"no row of the data can be learned from: {why}. {listed(self.dropped)}")

    def table(self) -> str:
        """Everything in one table of plain text."""
        learned = f"{self.learned} of {counted(self.rows, 'row')}"
        lines = [f"{learned} {'is' if self.learned == 1 else 'are'} learned from"]
        if self.held_out:
            lines[0] += f", {self.held_out} {'is' if self.held_out == 1 else 'are'} held out for validation"
        else:
            lines[0] += ", none is held out (data.held_out=N holds N out)"
        lines.append(f"{'bucket':<10}{'frames':>7}{'size':>12}{'clips':>8}{'batch':>7}{'batches':>9}")
        for share in self.shares:
            size = f"{share.height}x{share.width}"
            lines.append(
                f"{share.name:<10}{share.frames:>7}{size:>12}{share.rows:>8}{share.batch_size:>7}"
                f"{share.batches:>9}"
            )
        if self.repeating:
            slower = f"{counted(self.repeating, 'clip')} {'are' if self.repeating > 1 else 'is'} slower"
            lines.append(f"{slower} than the model's fps, so frames repeat")
        if self.dropped:
            lines.append(
                f"{counted(len(self.dropped), 'row')} {'is' if len(self.dropped) == 1 else 'are'} dropped:"
            )
        for kind, count in self.reasons.items():
            lines.append(f"{count:>8}  {kind}: {listed([row for row in self.dropped if row.kind == kind])}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for a file."""
        return {**asdict(self), "learned": self.learned, "reasons": dict(self.reasons)}


def from_dict(found: Mapping[str, Any]) -> Summary:
    """The inverse of :meth:`Summary.as_dict`."""
    return Summary(
        rows=found["rows"],
        shares=tuple(Share(**share) for share in found["shares"]),
        dropped=tuple(Dropped(**row) for row in found["dropped"]),
        held_out=found["held_out"],
        repeating=found["repeating"],
    )


def listed(rows: Sequence[Dropped]) -> str:
    """The first of ``rows``, by number and file name, with what is wrong."""
    shown = ", ".join(row.words for row in rows[:_NAMED])
    more = len(rows) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
