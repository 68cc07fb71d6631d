"""V-JEPA's block masks: which patches of a video are hidden and must be predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from vader_core.errors import VaderError


@dataclass(frozen=True)
class MaskSet:
    """Blocks that are hidden together; each covers all frames.

    Args:
        blocks: How many.
        scale: Share of a frame's patches that one covers.
        aspect: Least and greatest ratio of height to width.
    """

    blocks: int
    scale: float
    aspect: tuple[float, float] = (0.75, 1.5)


#: V-JEPA's pretraining: eight small blocks, and two large ones.
PRETRAINING_SETS = (MaskSet(8, 0.15), MaskSet(2, 0.7))

#: Draws before giving up; V-JEPA draws until some patch is left visible.
ATTEMPTS = 1000


@dataclass(frozen=True)
class Mask:
    """Patch numbers in raster order (frame, row, column): what is visible and what is hidden."""

    visible: Int[Tensor, " n"]
    hidden: Int[Tensor, " m"]


def draw_mask(kind: MaskSet, grid: tuple[int, int, int], generator: torch.Generator) -> Mask:
    """One mask over a grid of (time, height, width) patches; all its blocks have one size.

    Raises:
        VaderError: The grid is too small to hide a block and leave something visible.
    """
    time, height, width = grid
    for _ in range(ATTEMPTS):
        block_height, block_width = _block_size(kind, height, width, generator)
        hidden = torch.zeros(height, width, dtype=torch.bool)
        for _ in range(kind.blocks):
            top = int(torch.randint(height - block_height + 1, (1,), generator=generator))
            left = int(torch.randint(width - block_width + 1, (1,), generator=generator))
            hidden[top : top + block_height, left : left + block_width] = True
        if not hidden.all():
            everywhere = hidden.flatten().repeat(time)
            return Mask(visible=(~everywhere).nonzero().squeeze(1), hidden=everywhere.nonzero().squeeze(1))
    raise VaderError(
        f"reward 'vjepa': {height}x{width} patches are too few to hide blocks of {kind.scale:.0%}; "
        "use a larger crop_size or a smaller patch_size"
    )


def _block_size(kind: MaskSet, height: int, width: int, generator: torch.Generator) -> tuple[int, int]:
    low, high = kind.aspect
    aspect = low + (high - low) * float(torch.rand((), generator=generator))
    area = kind.scale * height * width
    block_height = min(max(round(math.sqrt(area * aspect)), 1), height)
    block_width = min(max(round(math.sqrt(area / aspect)), 1), width)
    return block_height, block_width
