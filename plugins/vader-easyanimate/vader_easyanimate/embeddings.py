"""How the transformer is told about place, time, size and text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Channels of the sinusoid that a scalar becomes, and its longest period.
SINUSOID_CHANNELS = 256
LONGEST_PERIOD = 10_000.0


def sinusoid(values: Tensor, channels: int = SINUSOID_CHANNELS) -> Tensor:
    """Cosines, then sines, of ``values`` [n] at ``channels / 2`` geometric frequencies: [n, channels]."""
    half = channels // 2
    steps = torch.arange(half, device=values.device, dtype=values.dtype)
    angles = values[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TwoLinears(nn.Module):
    """Linear, activation, linear.

    Args:
        width_in: Channels that come in.
        width: Channels behind the first and the second linear.
        silu: SiLU in between (numbers); otherwise the tanh form of GELU (text).
    """

    def __init__(self, width_in: int, width: int, *, silu: bool) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width)
        self.linear_2 = nn.Linear(width, width)
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        """[…, width_in] → […, width]."""
        hidden = self.linear_1(x)
        return self.linear_2(F.silu(hidden) if self.silu else F.gelu(hidden, approximate="tanh"))


class _Told(nn.Module):
    """The timestep, and where the model was trained so the resolution and the aspect ratio."""

    def __init__(self, width: int, *, sizes: bool) -> None:
        super().__init__()
        self.timestep_embedder = TwoLinears(SINUSOID_CHANNELS, width, silu=True)
        if sizes:
            self.resolution_embedder = TwoLinears(SINUSOID_CHANNELS, width // 3, silu=True)
            self.aspect_ratio_embedder = TwoLinears(SINUSOID_CHANNELS, width // 3, silu=True)

    def forward(self, timestep: Tensor, resolution: Tensor | None, aspect_ratio: Tensor | None) -> Tensor:
        told = self._embedded(self.timestep_embedder, timestep[:, None])
        if resolution is None or aspect_ratio is None:
            return told
        sizes = (
            self._embedded(self.resolution_embedder, resolution),
            self._embedded(self.aspect_ratio_embedder, aspect_ratio),
        )
        return told + torch.cat(sizes, dim=-1)

    @staticmethod
    def _embedded(embedder: TwoLinears, values: Tensor) -> Tensor:
        """[b, n] → [b, n * width], each number on its own."""
        wide = values if values.dtype == torch.float64 else values.float()
        rows = sinusoid(wide.flatten()).to(embedder.linear_1.weight.dtype)
        return embedder(rows).unflatten(0, values.shape).flatten(1)


class AdaLayerNormSingle(nn.Module):
    """What time (and size) say to every block: one vector, from which each block learns an offset.

    Args:
        width: Channels of the model.
        sizes: Whether resolution and aspect ratio are told.
    """

    def __init__(self, width: int, *, sizes: bool) -> None:
        super().__init__()
        self.emb = _Told(width, sizes=sizes)
        self.linear = nn.Linear(width, 6 * width)

    def forward(
        self, timestep: Tensor, resolution: Tensor | None, aspect_ratio: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The blocks' modulation [b, 6 * width] and the vector it comes from [b, width].

        Args:
            timestep: [b] in 0 … 999.
            resolution: [b, 2], height and width in pixels, or ``None``.
            aspect_ratio: [b, 1], height over width, or ``None``.
        """
        told = self.emb(timestep, resolution, aspect_ratio)
        return self.linear(F.silu(told)), told


class PatchEmbedder(nn.Module):
    """Latent patches as tokens, frame by frame.

    Args:
        channels: Latent channels.
        width: Channels of the model.
        patch: Side of a patch.
    """

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, latents: Tensor) -> Tensor:
        """[n, c, h, w] → [n, h / patch * w / patch, width]."""
        return self.proj(latents).flatten(2).transpose(1, 2)


def position_embedding(
    rows: int,
    columns: int,
    width: int,
    *,
    base: int,
    scale: float,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The position of each token of a frame: [rows * columns, width].

    A quarter of the channels each: sines and cosines of the column, sines and cosines of the row.
    Coordinates run over 0 … ``base / scale``, however many tokens there are.

    Args:
        rows: Tokens along the height.
        columns: Tokens along the width.
        width: Channels, a multiple of 4.
        base: Tokens along a side in training.
        scale: What coordinates are divided by.
        device: Where the result goes.
        dtype: Of the result; computed in float64.
    """
    quarter = width // 4
    steps = torch.arange(quarter, dtype=torch.float64)
    frequencies = LONGEST_PERIOD ** -(steps / quarter)

    def along(count: int) -> Tensor:
        coordinates = torch.arange(count, dtype=torch.float64) * (base / count) / scale
        angles = coordinates[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    column = along(columns)[None].expand(rows, -1, -1)
    row = along(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([column, row], dim=-1).flatten(0, 1).to(device=device, dtype=dtype)


def frame_table(frames: int, width: int) -> Tensor:
    """The motion modules' position table [1, frames, width]: sines at even channels, cosines at odd ones."""
    positions = torch.arange(frames, dtype=torch.float32)[:, None]
    channels = torch.arange(0, width, 2, dtype=torch.float32)
    frequencies = torch.exp(channels * (-math.log(LONGEST_PERIOD) / width))
    angles = positions * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None, :, :width].contiguous()
