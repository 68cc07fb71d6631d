"""Decoding some frames with a decoder that mixes frames.

The temporal decoder looks across the frames of one chunk (convolutions in time, and normalisation over all
of the chunk), so a frame depends on every other frame of its chunk. Some frames alone are decoded inside a
window of neighbours; only a window that spans the whole video gives exactly the full decode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

#: ``decode_chunk(latents [n, c, h, w], num_frames) -> pixels [n, 3, H, W]``; n is a multiple of
#: ``num_frames``.
ChunkDecoder = Callable[[Tensor, int], Tensor]


def windows(frames: Sequence[int], num_frames: int, neighbours: int) -> list[range]:
    """The runs of frames to decode so that each of ``frames`` has its neighbours.

    Each window holds ``2 * neighbours + 1`` frames, shifted inwards at the ends of the video; windows that
    overlap or touch become one, since more context costs nothing more there.

    Args:
        frames: Wanted frame indices, in any order.
        num_frames: Length of the video.
        neighbours: Frames of context to each side.

    Returns:
        Disjoint ranges in ascending order that cover ``frames``.

    >>> windows([0, 7], num_frames=14, neighbours=1)
    [range(0, 3), range(6, 9)]
    >>> windows([3, 6], num_frames=14, neighbours=1)
    [range(2, 8)]
    """
    size = min(2 * neighbours + 1, num_frames)
    merged: list[range] = []
    for frame in sorted(set(frames)):
        start = min(max(frame - neighbours, 0), num_frames - size)
        if merged and start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, start + size))
        else:
            merged.append(range(start, start + size))
    return merged


def chunks(num_frames: int, size: int) -> list[range]:
    """Consecutive runs of ``size`` frames; the last may be shorter.

    >>> chunks(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(start, min(start + size, num_frames)) for start in range(0, num_frames, size)]


def decode_runs(
    latents: Float[Tensor, "b t c h w"], runs: Sequence[range], decode_chunk: ChunkDecoder
) -> dict[int, Float[Tensor, "b 3 H W"]]:
    """Decode disjoint runs of frames, each as one chunk; runs of equal length are decoded together.

    Returns:
        The pixels of every frame in ``runs``, by frame index.
    """
    batch = latents.shape[0]
    pixels: dict[int, Tensor] = {}
    for length in sorted({len(run) for run in runs}):
        alike = [run for run in runs if len(run) == length]
        stacked = torch.stack([latents[:, run.start : run.stop] for run in alike])
        decoded = decode_chunk(rearrange(stacked, "r b t c h w -> (r b t) c h w"), length)
        decoded = rearrange(decoded, "(r b t) c h w -> r t b c h w", b=batch, t=length)
        for run, frames in zip(alike, decoded, strict=True):
            pixels.update(zip(run, frames, strict=True))
    return pixels
