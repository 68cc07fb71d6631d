"""How Open-Sora tells its transformer about place, time and text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vader_core.precision import widened
from vader_opensora import kernels

#: Channels of the sinusoid that a scalar becomes, and its longest period.
SINUSOID_CHANNELS = 256
LONGEST_PERIOD = 10_000.0


def sinusoid(values: Tensor, channels: int = SINUSOID_CHANNELS) -> Tensor:
    """Cosines, then sines, of ``values`` [n] at ``channels / 2`` geometric frequencies: [n, channels]."""
    half = channels // 2
    steps = torch.arange(half, device=values.device, dtype=values.dtype)
    angles = values[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ScalarEmbedder(nn.Module):
    """A scalar per sample (timestep, frames per second) as a vector of the model's width.

    Args:
        width: Channels of the result.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, values: Tensor) -> Tensor:
        """[b] → [b, width]. The sinusoid is computed in the dtype of ``values``, never below float32."""
        return self.mlp(sinusoid(widened(values)).to(next(self.mlp.parameters()).dtype))


class FeedForward(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_in, hidden)
        self.fc2 = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """[…, width_in] → […, width_out]."""
        return self.fc2(kernels.linear_gelu(self.fc1, x))


class CaptionEmbedder(nn.Module):
    """Text encodings at the model's width, and the encoding that stands for no text.

    Args:
        caption_channels: Width of the text encoder.
        width: Width of the model.
        max_tokens: Tokens of the null encoding.
    """

    y_embedding: Tensor

    def __init__(self, caption_channels: int, width: int, max_tokens: int) -> None:
        super().__init__()
        self.y_proj = FeedForward(caption_channels, width, width)
        self.register_buffer("y_embedding", torch.randn(max_tokens, caption_channels) / caption_channels**0.5)

    def forward(self, text: Tensor) -> Tensor:
        """[b, l, caption_channels] → [b, l, width]."""
        return self.y_proj(text)


class PatchEmbedder(nn.Module):
    """Latent patches as tokens.

    Args:
        channels: Latent channels.
        width: Width of the model.
        patch: Patch size along (t, h, w).
    """

    def __init__(self, channels: int, width: int, patch: Sequence[int]) -> None:
        super().__init__()
        size = (int(patch[0]), int(patch[1]), int(patch[2]))
        self.proj = nn.Conv3d(channels, width, kernel_size=size, stride=size)

    def forward(self, latents: Tensor) -> Tensor:
        """[b, c, t, h, w] → [b, t, h, w, width], sizes in tokens."""
        # Every sum of the residual stream keeps the layout that it starts with.
        return self.proj(latents).permute(0, 2, 3, 4, 1).contiguous()


class RotaryFrequencies(nn.Module):
    """The frequencies of rotary position embedding, which the official checkpoint stores.

    Args:
        head_dim: Channels of an attention head.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        # Officially a parameter that is never trained: a buffer is stored alike, and nothing can tune it.
        self.register_buffer("freqs", torch.empty(head_dim // 2))
        self.freqs: Tensor
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Work the frequencies out, as they were before training stored them."""
        exponents = torch.arange(len(self.freqs), dtype=self.freqs.dtype, device="cpu") / len(self.freqs)
        self.freqs.copy_(LONGEST_PERIOD**-exponents)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotation at positions 0 … length - 1: [length, head_dim / 2] each."""
        positions = torch.arange(length, device=self.freqs.device, dtype=self.freqs.dtype)
        angles = positions[:, None] * self.freqs
        return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the channel pairs (2j, 2j + 1) of ``x`` […, length, head_dim] by its position's angles."""
    cos, sin = rotation
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x.dtype)


def position_embedding(
    rows: int, columns: int, width: int, *, scale: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The position of each token of a frame: [rows * columns, width].

    A quarter of the channels each: sine and cosine of the column, sine and cosine of the row. Coordinates are
    stretched to a square of the frame's area and divided by ``scale``, so that what the model saw at 512 x
    512 keeps its place.

    Args:
        rows: Tokens along the height.
        columns: Tokens along the width.
        width: Channels of the model, a multiple of 4.
        scale: sqrt(height * width in pixels) / 512.
        device: Where the result goes.
        dtype: Of the result; at least float32.
    """
    side = round(math.sqrt(rows * columns))
    quarter = width // 4
    steps = torch.arange(quarter, device=device, dtype=dtype)
    frequencies = LONGEST_PERIOD ** (-2.0 * steps / (width // 2))

    def along(count: int) -> tuple[Tensor, Tensor]:
        coordinates = torch.arange(count, device=device, dtype=dtype) / scale * side / count
        angles = coordinates[:, None] * frequencies
        return angles.sin(), angles.cos()

    column_sin, column_cos = (part[None].expand(rows, -1, -1) for part in along(columns))
    row_sin, row_cos = (part[:, None].expand(-1, columns, -1) for part in along(rows))
    return torch.cat([column_sin, column_cos, row_sin, row_cos], dim=-1).reshape(rows * columns, width)
