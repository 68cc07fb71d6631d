"""Video sizes by name: resolution, aspect ratio and length, as Open-Sora names them; imports no torch."""

from __future__ import annotations

import math
from fractions import Fraction

from vader_core.errors import VaderError, did_you_mean

#: Height : width. Two names stand for a ratio that differs a little from what they say.
ASPECT_RATIOS: dict[str, Fraction] = {
    "3:8": Fraction(3, 8),
    "9:21": Fraction(9, 21),
    "12:25": Fraction(12, 25),
    "1:2": Fraction(1, 2),
    "9:17": Fraction(9, 17),
    "27:50": Fraction(20, 37),
    "9:16": Fraction(9, 16),
    "5:8": Fraction(5, 8),
    "2:3": Fraction(2, 3),
    "3:4": Fraction(3, 4),
    "1:1": Fraction(1, 1),
    "4:3": Fraction(4, 3),
    "3:2": Fraction(3, 2),
    "16:9": Fraction(16, 9),
    "17:9": Fraction(17, 9),
    "2:1": Fraction(2, 1),
    "50:27": Fraction(25, 12),
}

#: Pixels of a frame. Those without a ``p`` or ``k`` are known for one aspect ratio alone.
RESOLUTIONS: dict[str, int] = {
    "144p": 144 * 256,
    "256": 256**2,
    "240p": 240 * 426,
    "360p": 360 * 640,
    "512": 512**2,
    "480p": 480 * 854,
    "720p": 720 * 1280,
    "1024": 1024**2,
    "1080p": 1080 * 1920,
    "2k": 1440 * 2560,
    "2048": 2048**2,
    "4k": 2160 * 3840,
}

_SQUARES = ("256", "512", "1024", "2048")
_ONLY_FOR_SQUARES = "12:25"

#: Three sizes of the official table are one pixel off its own rule.
_EXCEPTIONS: dict[tuple[str, str], tuple[int, int]] = {
    ("240p", "2:3"): (262, 393),
    ("480p", "12:25"): (444, 925),
    ("480p", "4:3"): (740, 555),
}

#: Frames by length in seconds, at 25.5 frames per second: whole chunks of 17.
SECONDS: dict[str, int] = {"2s": 51, "4s": 102, "8s": 204, "16s": 408, "32s": 816}
#: The same lengths as multiples of the shortest.
MULTIPLES: dict[str, int] = {"1x": 51, "2x": 102, "4x": 204, "8x": 408, "16x": 816}

#: Frames of a chunk of the autoencoder; no clip is shorter, but for a single picture.
CHUNK_FRAMES = 17


def aspect_ratios_of(resolution: str) -> list[str]:
    """The aspect ratios that a resolution is known for."""
    return [_ONLY_FOR_SQUARES] if resolution in _SQUARES else list(ASPECT_RATIOS)


def image_size(resolution: str, aspect_ratio: str) -> tuple[int, int]:
    """Height and width in pixels.

    The area is the resolution's, rounded to even numbers (144p: down to whole ones). Squares are 11:23 in
    units of 16.

    Args:
        resolution: A name such as ``240p``.
        aspect_ratio: Height:width, such as ``9:16`` for a landscape video.

    Raises:
        VaderError: A name that is unknown, or two that do not go together; lists what is possible.

    >>> image_size("240p", "3:4")
    (276, 368)
    """
    if resolution not in RESOLUTIONS:
        raise VaderError(
            f"backbone 'opensora': resolution={resolution!r} is not known"
            f"{did_you_mean(resolution, RESOLUTIONS)}; use {', '.join(RESOLUTIONS)}, or --height and --width"
        )
    if aspect_ratio not in aspect_ratios_of(resolution):
        known = aspect_ratios_of(resolution)
        raise VaderError(
            f"backbone 'opensora': aspect_ratio={aspect_ratio!r} (height:width) is not known for resolution "
            f"{resolution!r}{did_you_mean(aspect_ratio, known)}; "
            f"use {', '.join(known)}, or --height and --width"
        )
    if resolution in _SQUARES:
        unit = int(resolution) // 256 * 16
        return 11 * unit, 23 * unit
    if (resolution, aspect_ratio) in _EXCEPTIONS:
        return _EXCEPTIONS[resolution, aspect_ratio]
    ratio = ASPECT_RATIOS[aspect_ratio]
    exact = math.sqrt(RESOLUTIONS[resolution] * ratio)
    if resolution == "144p":
        return int(exact), int(int(exact) / ratio)
    height = _even(exact)
    return height, _even(height / ratio)


def _even(value: float | Fraction) -> int:
    return 2 * math.floor(value / 2 + Fraction(1, 2))


def frame_count(length: int | str) -> int:
    """Frames of a clip, from a number, seconds (``2s``) or multiples of the shortest clip (``2x``).

    Args:
        length: Frames, or one of the names.

    Raises:
        VaderError: A name that is not known.

    >>> frame_count("4s")
    102
    """
    named = SECONDS | MULTIPLES
    if isinstance(length, str):
        if length in named:
            return named[length]
        if not length.isdigit():
            raise VaderError(
                f"backbone 'opensora': num_frames={length!r} is not known; "
                "use a number (1, or 17 and more) or "
                f"{', '.join(f'{name} = {frames}' for name, frames in SECONDS.items())}"
            )
    return int(length)


def check_frames(num_frames: int) -> None:
    """Refuse lengths that the model was not made for.

    From 2 to 16 frames the official time shift is 0, so that every timestep but the first is 0 and the first
    is 0/0.

    Raises:
        VaderError: Saying what is allowed.
    """
    if num_frames != 1 and num_frames < CHUNK_FRAMES:
        raise VaderError(
            f"backbone 'opensora' (plugin vader-opensora): num_frames={num_frames} is not allowed: "
            "use 1, or 17 and more (2s = 51, 4s = 102, 8s = 204, 16s = 408)"
        )
