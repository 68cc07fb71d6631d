"""EasyAnimate's batches: clips of any size and length, brought to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.data.crops import Pixels, cover_smooth, smallest_cover
from vader_core.data.resolutions import Size, easyanimate_crops, easyanimate_sizes, nearest


def easyanimate_size(height: int, width: int, side: int) -> tuple[Size, str]:
    """The size that a batch gets from its first clip, and the name of the ratio.

    Not rounded to a multiple of 16: sizes other than 256, 512, 768 and 1024 can give odd latents, which
    ``usable`` puts right.

    Args:
        height: Of the first clip.
        width: Of the first clip.
        side: Side of a square of as many pixels: 256, 384, 512, 768, …
    """
    sizes = easyanimate_sizes()
    name = nearest(sizes, height, width)
    tall, wide = sizes[name]
    return (int(tall / 512 * side), int(wide / 512 * side)), name


def usable(size: Size, multiple: int = 16) -> Size:
    """The size rounded down to sides that are multiples of ``multiple``.

    >>> usable((288, 504))
    (288, 496)
    """
    return size[0] // multiple * multiple, size[1] // multiple * multiple


def common_length(lengths: Sequence[int], most: int, interval: int) -> int:
    """How many frames a batch of clips is cut to: whole chunks of ``interval``, or 1 where there is none.

    >>> common_length([11, 20], 18, 9), common_length([5], 18, 9)
    (9, 1)
    """
    return min([most + interval, *(length // interval * interval for length in lengths)]) or 1


def easyanimate_collate(
    clips: Sequence[Pixels],
    *,
    side: int,
    most: int,
    interval: int,
    crop_draws: np.random.Generator | None = None,
) -> Float[Tensor, "b f 3 h w"]:
    """One batch, number for number as EasyAnimate's trainer makes it.

    Args:
        clips: Bytes [F, 3, H, W], of any sizes and lengths.
        side: Side of a square of as many pixels.
        most: The most frames.
        interval: Frames per chunk of the autoencoder.
        crop_draws: Draws one of the 15 crop shapes; ``None`` takes the shape nearest to the first clip's.

    Returns:
        RGB in [0, 1], float32.
    """
    frames = common_length([len(clip) for clip in clips], most, interval)
    first = clips[0].shape[-2:]
    covering: Size | None = None
    if crop_draws is None:
        size, _ = easyanimate_size(first[0], first[1], side)
        # The original computes the resize from the first clip for all of them.
        covering = smallest_cover(first[0], first[1], size)
    else:
        sizes, weights = easyanimate_crops()
        name = str(crop_draws.choice(list(sizes), p=list(weights)))
        tall, wide = (length / 512 * side for length in sizes[name])
        size = usable((int(tall), int(wide)))
    return torch.stack([cover_smooth(clip[:frames], size, covering) for clip in clips])
