"""How the frames of a clip are chosen in a run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from vader_core.data.frame_choice import (
    easyanimate_count,
    easyanimate_frames,
    easyanimate_starts,
    resampled_frames,
    resampled_length,
    window_frames,
    window_starts,
)
from vader_core.data.frame_masks import Draws
from vader_core.data.options import FrameRuleName
from vader_core.errors import VaderError
from vader_core.prompts import Shape


@dataclass(frozen=True)
class FrameRule:
    """Which frames of a clip are learned from.

    Args:
        name: ``even`` takes them at equal distances and reaches every frame; ``open_sora`` and
            ``easyanimate`` are those projects' rules, number for number.
        interval: One frame in so many; ``None`` resamples the clip to ``fps``, under ``even`` alone.
        fps: Frames per second that a resampled clip is read at.
    """

    name: FrameRuleName = "even"
    interval: int | None = None
    fps: float = 24.0

    def __post_init__(self) -> None:
        if self.interval is None and self.name != "even":
            raise VaderError(f"data.frame_rule={self.name} counts frames: give data.frame_interval, e.g. 1")

    def length(self, shape: Shape) -> int:
        """The frames of a clip, counted at the rate they are read at, before any interval."""
        if self.interval is None and shape.fps is not None and shape.frames > 1:
            return resampled_length(shape.frames, shape.fps, self.fps)
        return shape.frames

    def repeats(self, shape: Shape) -> bool:
        """Whether the clip is slower than it is read, so that frames repeat."""
        return self.interval is None and shape.frames > 1 and (shape.fps or self.fps) < self.fps - 1e-3

    def fits(self, shape: Shape, wanted: int) -> bool:
        """Whether a clip gives ``wanted`` frames."""
        if self.name == "open_sora":
            return shape.frames > wanted * (self.interval or 1) or shape.frames == wanted == 1
        if self.name == "easyanimate":
            first, last = easyanimate_starts(shape.frames, wanted, self.interval or 1)
            return easyanimate_count(shape.frames, wanted) == wanted and first <= last
        return self.length(shape) >= (wanted - 1) * (self.interval or 1) + 1

    def lacking(self, shape: Shape, wanted: int) -> str:
        """How long a clip is that does not fit, and how long it would have to be.

        >>> FrameRule(fps=8).lacking(Shape(4, 64, 64, fps=8), 8)
        'it has 4 frames (0.50 s), and 8 (1.00 s) are needed'
        """
        longer = (replace(shape, frames=frames) for frames in itertools.count(shape.frames + 1))
        least = next(one for one in longer if self.fits(one, wanted))
        has, needed = (
            f"{one.frames}{' frames' * (one is shape)}"
            + (f" ({one.frames / one.fps:.2f} s)" if one.fps else "")
            for one in (shape, least)
        )
        return f"it has {has}, and {needed} are needed"

    def choose(self, shape: Shape, wanted: int, draws: Draws) -> list[int]:
        """The chosen frames, counted from the clip's beginning in the file's own frames.

        Args:
            shape: Of the clip.
            wanted: How many.
            draws: Where the start comes from.

        Raises:
            VaderError: The clip is too short.
        """
        if shape.frames == 1 == wanted:
            return [0]
        if not self.fits(shape, wanted):
            raise VaderError(f"{shape.frames} frames are too few for {wanted}")
        step = self.interval or 1
        if self.name == "open_sora":
            start = draws.randint(*window_starts(shape.frames, wanted, step))
            return window_frames(shape.frames, wanted, step, start)
        if self.name == "easyanimate":
            start = draws.randint(*easyanimate_starts(shape.frames, wanted, step))
            return easyanimate_frames(shape.frames, wanted, step, start)
        start = draws.randint(0, self.length(shape) - (wanted - 1) * step - 1)
        if self.interval is None and shape.fps is not None:
            return resampled_frames(shape.frames, shape.fps, self.fps, wanted, start / self.fps)
        return [start + k * step for k in range(wanted)]
