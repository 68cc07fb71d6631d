"""The sinusoidal embedding of timesteps and frame rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal_embedding(values: Tensor, width: int) -> Tensor:
    """Embeds scalars by cosines and sines of geometric frequencies.

    Args:
        values: `[b]`, any dtype: timesteps 0..999 or frames per second.
        width: Even width of the embedding; frequencies exp(-ln(10000) i / (width/2)).

    Returns:
        `[b, width]`, float32, all cosines before all sines.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values.float()[:, None] * torch.exp(steps * (-math.log(10000.0) / half))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
