"""The demo model's auto-encoder: each frame of 64 x 64 pixels becomes 8 x 8 latents of 8 channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

DOWNSAMPLING = 8
"""Pixels per latent along height and width; frames are coded one by one."""


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to the same shape."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(hidden)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, c', 2h, 2w)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class AutoEncoder(nn.Module):
    """Frames to latents and back; pixels enter and leave two by two (space to depth).

    Latents are normalised: over the training clips each channel has mean 0 and deviation 1.

    Args:
        latent_channels: channels of a latent.
        widths: channels at 1/2, 1/4 and 1/8 of the frame's resolution.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, latent_channels: int = 8, widths: tuple[int, int, int] = (48, 72, 112)) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, half, 3, padding=1),
            ResidualBlock(half),
            nn.Conv2d(half, quarter, 3, stride=2, padding=1),
            ResidualBlock(quarter),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            ResidualBlock(eighth),
            nn.GroupNorm(8, eighth),
            nn.SiLU(),
            nn.Conv2d(eighth, latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, eighth, 3, padding=1),
            ResidualBlock(eighth),
            ResidualBlock(eighth),
            Upsample(eighth, quarter),
            ResidualBlock(quarter),
            Upsample(quarter, half),
            ResidualBlock(half),
            nn.GroupNorm(8, half),
            nn.SiLU(),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames.

        Args:
            frames: (n, 3, 64, 64), RGB in [0, 1].

        Returns:
            (n, 8, 8, 8), normalised latents.
        """
        raw = self.encoder(frames * 2 - 1)
        return (raw - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (n, 8, 8, 8) to frames (n, 3, 64, 64): about [0, 1], not clamped."""
        raw = latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]
        return self.decoder(raw) / 2 + 0.5
