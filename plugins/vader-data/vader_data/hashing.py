"""A perceptual hash of a clip: what stays the same when it is scaled, re-encoded or brightened."""

from __future__ import annotations

import numpy as np

from .sampling import at_points

#: Bits per frame: the 8 x 8 lowest frequencies of a 32 x 32 picture, the constant left out of the median.
_SIDE, _LOW = 32, 8
#: Three frames per clip.
BITS = 3 * _LOW * _LOW


def hash_indices(num_frames: int) -> list[int]:
    """The frames that are hashed: at 10, 50 and 90 % of the length."""
    return at_points(num_frames)


def clip_hash(frames: np.ndarray) -> str:
    """The hash of three frames.

    Args:
        frames: uint8 [3, H, W, 3], RGB.

    Returns:
        192 bits as 48 hexadecimal digits.
    """
    return "".join(frame_hash(frame) for frame in frames)


def frame_hash(frame: np.ndarray) -> str:
    """Which of the lowest frequencies lie above their median: 64 bits, 16 hexadecimal digits."""
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_LOW, :_LOW].ravel()
    # a flat picture has no frequencies but rounding: none of its bits may depend on that
    bits = low > np.median(low[1:]) + 1e-3
    return np.packbits(bits).tobytes().hex()


def distance(first: str, second: str) -> int:
    """How many bits of two hashes differ.

    >>> distance("0f", "ff")
    4
    """
    return (int(first, 16) ^ int(second, 16)).bit_count()
