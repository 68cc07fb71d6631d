"""The page of a comparison: several models on the same prompts and noise, side by side in one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vader_core.files import replacing
from vader_core.report.clips import Gallery
from vader_core.report.page import rendered


@dataclass(frozen=True)
class Cell:
    """One model's mean of one figure.

    Args:
        mean: Its mean over the pairs.
        difference: Mean paired difference to the first column; ``None`` in the first.
        low: Lower end of its 95 % interval.
        high: Upper end.
        win_rate: Share of pairs above the first column.
    """

    mean: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    win_rate: float | None = None

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves no doubt."""
        if self.low is None or self.high is None:
            return ""
        return "better" if self.low > 0 else "worse" if self.high < 0 else ""


@dataclass(frozen=True)
class Compared:
    """What a comparison found.

    Args:
        title: Its name.
        columns: Each model's label, the one that the others are compared with first.
        rewards: By reward, one cell per column.
        statistics: Plain figures of the clips by name, one number per column.
        clips: The clips.
        pairs: How many prompts and seeds.
        settings: What all have in common, by name.
        is_small: Whether single pixels should stay visible when a clip is enlarged.
    """

    title: str
    columns: list[str]
    rewards: dict[str, list[Cell]]
    statistics: dict[str, list[float]]
    clips: Gallery
    pairs: int
    settings: dict[str, str] = field(default_factory=dict)
    is_small: bool = False


def write_comparison(found: Compared, path: Path) -> Path:
    """Write the page; everything is in the one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(rendered("comparison.html", found=found), encoding="utf-8")
    return path
