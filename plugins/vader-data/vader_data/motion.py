"""How much moves: the mean length of the optical flow between frames half a second apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .contracts import Clip, Scorer
from .errors import ClipError
from .options import FarnebackOptions
from .sampling import at_rate

#: EasyAnimate V2's settings: pyramid scale, levels, window, iterations, poly_n, poly_sigma, flags.
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)


def in_reference(score: float, height: int, width: int, side: int) -> float:
    """Pixels of a frame of ``height`` x ``width`` told in pixels of one whose shorter side is ``side``.

    >>> in_reference(2.0, 360, 640, 720)
    4.0
    """
    return score * side / min(height, width)


def farneback(frames: np.ndarray) -> float:
    """Mean length of Farnebäck's flow over the pairs of neighbours.

    Args:
        frames: uint8 [F, H, W, 3], RGB, F of 2 or more.

    Returns:
        Pixels per pair, of the frames' own size.
    """
    import cv2

    means = []
    before = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)
    for frame in frames[1:]:
        after = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        flow = cv2.calcOpticalFlowFarneback(before, after, None, *_FARNEBACK)  # type: ignore[call-overload]
        lengths, _ = cv2.cartToPolar(flow[..., 0], flow[..., 1])
        means.append(np.mean(lengths))
        before = after
    return float(np.mean(means))


class Farneback(Scorer):
    """Farnebäck's flow between frames ``1 / per_second`` apart."""

    def __init__(self, options: FarnebackOptions) -> None:
        self.options = options

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """Every int(fps / per_second)-th frame."""
        return at_rate(num_frames, fps, self.options.per_second)

    def score(self, clips: Sequence[Clip]) -> list[float | None]:
        """Pixels per pair, rounded to five decimals as upstream does.

        Raises:
            ClipError: A clip of one frame.
        """
        return [self._score(clip) for clip in clips]

    def _score(self, clip: Clip) -> float:
        if len(clip.frames) < 2:
            raise ClipError("motion needs two frames")
        found = farneback(clip.frames)
        if not self.options.native_pixels:
            height, width = clip.frames.shape[1:3]
            found = in_reference(found, height, width, self.options.reference_side)
        return round(found, 5)
