"""Large frames in overlapping tiles, blended linearly where they overlap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(
    run: Callable[[Tensor], Tensor], x: Tensor, *, side: int, out_side: int, overlap: float, least: int
) -> Tensor:
    """``run`` over tiles of the last two axes, put together.

    Args:
        run: From a tile [b, c, f, h, w] to [b, c', f', h', w'], each side scaled alike.
        x: [b, c, f, H, W].
        side: Of a tile that goes in.
        out_side: Of a whole tile that comes out.
        overlap: Share of a tile that the next one covers too.
        least: A last tile with a side below this is left out: the tile before it covers its places already,
            and layers with a stride could not take it.

    Returns:
        [b, c', f', H', W'].
    """
    step, blend = int(side * (1 - overlap)), int(out_side * overlap)
    keep = out_side - blend
    tops, lefts = (_starts(size, step, least) for size in x.shape[-2:])
    rows: list[list[Tensor]] = []
    for top in tops:
        rows.append([run(x[..., top : top + side, left : left + side]) for left in lefts])
    joined = []
    for i, row in enumerate(rows):
        parts = []
        for j, part in enumerate(row):
            if i > 0:
                part = _blended(rows[i - 1][j], part, blend, dim=-2)
            if j > 0:
                part = _blended(row[j - 1], part, blend, dim=-1)
            row[j] = part
            high = part.shape[-2] if i == len(rows) - 1 else keep
            wide = part.shape[-1] if j == len(row) - 1 else keep
            parts.append(part[..., :high, :wide])
        joined.append(torch.cat(parts, dim=-1))
    return torch.cat(joined, dim=-2)


def _starts(size: int, step: int, least: int) -> list[int]:
    starts = list(range(0, size, step))
    if len(starts) > 1 and size - starts[-1] < least:
        starts.pop()
    return starts


def _blended(before: Tensor, after: Tensor, extent: int, dim: int) -> Tensor:
    """``after`` with its first ``extent`` rows (columns) faded in over the last ones of ``before``."""
    extent = min(extent, before.shape[dim], after.shape[dim])
    if extent == 0:
        return after
    shape = [1] * after.ndim
    shape[dim] = extent
    share = (torch.arange(extent, device=after.device, dtype=after.dtype) / extent).view(shape)
    mixed = before.narrow(dim, before.shape[dim] - extent, extent) * (1 - share)
    mixed = mixed + after.narrow(dim, 0, extent) * share
    return torch.cat([mixed, after.narrow(dim, extent, after.shape[dim] - extent)], dim=dim)
