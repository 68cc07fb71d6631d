"""Which frames of a clip are used: each project's rule as a pure function of its draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vader_core.errors import VaderError

# EasyAnimate leaves out the last tenth of a file, and a tenth of what remains at the front.
_USED = 0.9
_FRONT = 0.1
# A clip whose frames would exceed this share of the file gives fewer of them.
_MOST = 0.8


def window_starts(frames: int, wanted: int, interval: int) -> tuple[int, int]:
    """Open-Sora: the first and the last possible start of a window of ``wanted`` x ``interval`` frames.

    Args:
        frames: In the file.
        wanted: Frames to use.
        interval: One frame in so many.

    Returns:
        An inclusive range; the file's last frame is only reached by a window as long as the file.

    >>> window_starts(200, 64, 2)
    (0, 71)
    """
    return 0, max(0, frames - wanted * interval - 1)


def window_frames(frames: int, wanted: int, interval: int, start: int) -> list[int]:
    """Open-Sora: ``wanted`` frames of the window that begins at ``start``, evenly spread and rounded down.

    Steps are therefore not all equal: an interval of 4 gives steps of 4 and 5.

    Raises:
        VaderError: The file is too short to give ``wanted`` different frames.

    >>> window_frames(89, 16, 4, 0)
    [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]
    """
    end = min(start + wanted * interval, frames)
    chosen = np.linspace(start, end - 1, wanted, dtype=int).tolist()
    if end - start < wanted:
        raise VaderError(f"{frames} frames are too few for {wanted}")
    return chosen


def easyanimate_count(frames: int, wanted: int) -> int:
    """EasyAnimate: how many frames a file of ``frames`` gives, at most ``wanted``; 0 where it is too short.

    >>> easyanimate_count(200, 144), easyanimate_count(100, 144)
    (144, 80)
    """
    return min(wanted, int(frames * (_USED - _FRONT)))


def easyanimate_starts(frames: int, wanted: int, stride: int) -> tuple[int, int]:
    """EasyAnimate: the inclusive range of starts; empty (last below first) where the stride is too long."""
    count = easyanimate_count(frames, wanted)
    used = int(_USED * frames)
    clip = min(used, (count - 1) * stride + 1)
    return int(_FRONT * used), used - clip


def easyanimate_frames(frames: int, wanted: int, stride: int, start: int) -> list[int]:
    """EasyAnimate: the frames of the clip that begins at ``start``.

    Raises:
        VaderError: The file is too short for one frame, or ``start`` lies outside the range.
    """
    count = easyanimate_count(frames, wanted)
    if count < 1:
        raise VaderError(f"{frames} frames are too few")
    first, last = easyanimate_starts(frames, wanted, stride)
    if not first <= start <= last:
        raise VaderError(f"{frames} frames hold no clip of {count} frames with stride {stride}")
    clip = min(int(_USED * frames), (count - 1) * stride + 1)
    return np.linspace(start, start + clip - 1, count, dtype=int).tolist()


def resampled_frames(count: int, rate: float, fps: float, wanted: int, start: float) -> list[int]:
    """The frames that a player shows at ``fps`` pictures per second from ``start`` seconds on.

    A file slower than ``fps`` gives frames twice.

    Args:
        count: Frames in the file, all equally long.
        rate: The file's frames per second.
        fps: Pictures per second wanted.
        wanted: How many.
        start: Seconds from the file's beginning.

    Raises:
        VaderError: The file ends before the last picture.

    >>> resampled_frames(100, 30, 10, 4, 0.5)
    [15, 18, 21, 24]
    """
    # The small part keeps a time that is meant to meet a frame's beginning from falling just before it.
    chosen = [int((start + k / fps) * rate + 1e-6) for k in range(wanted)]
    if chosen and chosen[-1] >= count:
        raise VaderError(
            f"{count} frames at {rate:g} fps are {count / rate:.2f} s, too short for {wanted} at {fps:g} fps"
        )
    return chosen


def resampled_length(count: int, rate: float, fps: float) -> int:
    """How many pictures at ``fps`` a file of ``count`` frames at ``rate`` gives.

    >>> resampled_length(100, 30, 10), resampled_length(10, 5, 10)
    (34, 20)
    """
    return int((count - 1e-6) * fps / rate) + 1 if count else 0


def random_frame_counts(most: int, interval: int) -> tuple[list[int], list[float]]:
    """EasyAnimate's random frame crop: the numbers of frames that a batch may be cut to, and their weights.

    Args:
        most: The most frames.
        interval: Frames per chunk of the autoencoder.

    Returns:
        1, then the multiples of ``interval`` up to ``most``; the last has probability 0.90, the others share
        0.10.

    >>> random_frame_counts(18, 9)[0]
    [1, 9, 18]
    """
    counts = [1, *range(interval, most + 1, interval)]
    if len(counts) == 1:
        return counts, [1.0]
    share = (1 - 0.90) / (len(counts) - 1)
    return counts, [share] * (len(counts) - 1) + [0.90]


def draw_frame_count(counts: Sequence[int], weights: Sequence[float], draws: np.random.Generator) -> int:
    """One number of frames for a batch."""
    return int(draws.choice(list(counts), p=list(weights)))
