"""The options of ``data.…``: what is learned from, and how it is brought to size. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Rule = Literal["1.1", "1.2"]
FrameRuleName = Literal["even", "open_sora", "easyanimate"]
Crop = Literal["smooth", "open_sora"]

#: Keep probability (a pair under rule 1.2), and batch size.
BucketEntry = tuple[tuple[float, float] | float, int | None]


class DataOptions(BaseModel):
    """How clips are learned from."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str | None = Field(None, description="file:PATH, videos:FOLDER, cache:FOLDER or NAME.")
    root: Path | None = Field(None, description="Folder that a table's relative paths start from.")
    frame_rule: FrameRuleName = Field(
        "even",
        description="Which frames: even (at equal distances, every one can be reached), open_sora or "
        "easyanimate.",
    )
    frame_interval: int | None = Field(
        None, ge=1, description="Take one frame in so many; left out, clips are read at the run's fps."
    )
    crop: Crop = Field(
        "smooth", description="Resizing: smooth (antialiased) or open_sora (as its trainer does)."
    )
    buckets: dict[str, dict[str, BucketEntry]] | None = Field(
        None,
        description="Resolution -> frames -> [keep probability, batch size]; left out, every clip is brought "
        "to the run's size.",
    )
    bucket_rule: Rule = Field("1.1", description="Open-Sora's rule for buckets: 1.1 or 1.2.")
    held_out: int | None = Field(
        None, ge=0, description="So many clips are kept for validation alone; a tenth by default, 8 at most."
    )
    check: bool = Field(False, description="Read every file whole before training, to find those cut off.")
    unreadable_limit: float = Field(
        0.1, ge=0, le=1, description="The run ends where a larger share of the clips cannot be read."
    )
    workers: int = Field(2, ge=1, description="Threads that read clips ahead of the model.")
