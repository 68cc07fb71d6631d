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


class GroupOptions(BaseModel):
    """EasyAnimate's batches: `enable_bucket`, `random_frame_crop`, `random_ratio_crop`, `video_repeat`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    side: int = Field(512, ge=64, description="Sizes have as many pixels as a square of this side.")
    chunk: int = Field(9, ge=1, description="Clips have a multiple of so many frames, or one.")
    random_frames: bool = Field(
        False, description="Cut one batch in ten to fewer frames, 1 or a multiple of the chunk."
    )
    random_ratio: bool = Field(False, description="Cut a batch to one of 15 shapes, whatever its clips have.")
    video_repeat: int = Field(1, ge=0, description="How often each video comes where a picture comes once.")


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
    groups: GroupOptions | None = Field(
        None,
        description="EasyAnimate's batches in place of buckets: pictures and videos apart, each with those "
        "of nearly its shape.",
    )
    held_out: int | None = Field(
        None,
        ge=0,
        description="So many clips are kept for validation alone; by default a tenth, 8 at most, "
        "and none of fewer than ten.",
    )
    check: bool = Field(False, description="Read every file whole before training, to find those cut off.")
    unreadable_limit: float = Field(
        0.1, ge=0, le=1, description="The run ends where a larger share of the clips cannot be read."
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="Threads that read clips ahead of the model; by default the process's share of the "
        "processor's cores, 8 at most.",
    )
