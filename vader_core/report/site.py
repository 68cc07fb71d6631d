"""The index of an exported site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vader_core.files import replacing
from vader_core.report.headline import aligned, cards
from vader_core.report.page import rendered
from vader_core.run.record import Record


@dataclass(frozen=True)
class Entry:
    """A page of the site.

    Args:
        name: Of the run, the batch or the comparison.
        place: Its address from the index.
        kind: ``run``, ``clips`` or ``comparison``.
        told: A line on it.
        figures: What came of it, by name.
    """

    name: str
    place: str
    kind: str
    told: str
    figures: tuple[tuple[str, str], ...] = ()


def run_entry(record: Record, place: str) -> Entry:
    """A run's line in the index."""
    figures = tuple(
        (card.what, card.value if card.before is None else f"{card.before} → {card.value}")
        for card in cards(record)
    )
    return Entry(record.name, place, "run", aligned(record), figures)


def write_site(entries: Sequence[Entry], folder: Path) -> Path:
    """Write ``index.html``."""
    path = folder / "index.html"
    with replacing(path) as beside:
        beside.write_text(rendered("site.html", entries=entries), encoding="utf-8")
    return path
