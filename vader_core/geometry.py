"""The size of a video."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Geometry:
    """The size of a video in pixels, frames and frames per second.

    Args:
        height: Pixels.
        width: Pixels.
        num_frames: Video frames (not latent frames).
        fps: Frames per second that the model is told and that files are written with.
    """

    height: int
    width: int
    num_frames: int
    fps: float

    def __str__(self) -> str:
        return f"{self.height}x{self.width}, {self.num_frames} frames at {self.fps:g} fps"


@dataclass(frozen=True, slots=True)
class GeometryRequest:
    """What a user asked for, in the user's own words; ``None`` leaves it to the backbone.

    ``num_frames`` may be a form that only the backbone knows, such as ``2s``.
    """

    height: int | None = None
    width: int | None = None
    num_frames: int | str | None = None
    fps: float | None = None
