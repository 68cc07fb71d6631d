"""The demo model's denoiser: a diffusion transformer over space-time patches and caption tokens.

A patch is one latent pixel of two frames in a row, so a clip is 4 x 64 = 256 tokens; the caption's 12 tokens
are put before them and all attend to all. The timestep enters through adaptive normalisation whose projection
the blocks share, each adding its own learnt table (PixArt's economy, arXiv 2310.00426).
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vader_core.nn import feature_cache

TIME_FEATURES = 128


def timestep_features(timesteps: Tensor) -> Tensor:
    """Sines and cosines of timesteps (b,) in [0, 1]: (b, 128), float32 or better."""
    dtype = torch.promote_types(timesteps.dtype, torch.float32)
    half = TIME_FEATURES // 2
    octaves = torch.arange(half, device=timesteps.device, dtype=dtype) / half
    angles = 100.0 * timesteps.to(dtype)[:, None] * torch.exp(-math.log(1000.0) * octaves)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Attention(nn.Module):
    """Self-attention with RMS-normalised queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)
        self.norm_q = nn.RMSNorm(width // heads, eps=1e-6)
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, n, width) to the same shape."""
        query, key, value = (
            rearrange(project(x), "b n (heads d) -> b heads n d", heads=self.heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        attended = functional.scaled_dot_product_attention(self.norm_q(query), self.norm_k(key), value)
        return self.to_out(rearrange(attended, "b heads n d -> b n (heads d)"))


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, ratio * width)
        self.contract = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, n, width) to the same shape."""
        return self.contract(functional.gelu(self.expand(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated by the timestep."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.feed_forward = FeedForward(width, ratio)
        self.modulation_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Map tokens (b, n, width), with the shared modulation (b, 6, width), to the same shape."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.modulation_table)[
            :, :, None
        ].unbind(1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.feed_forward(self.norm2(x) * (1 + scale2) + shift2)


class Denoiser(nn.Module):
    """Predict the velocity (noise minus clean latents) of a rectified flow.

    Args:
        latent_channels: channels of a latent.
        num_frames: frames of a clip, even.
        latent_size: latents along height and width.
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads.
        ratio: widening of the feed-forward layers.
        text_width: channels of a caption feature.
    """

    def __init__(
        self,
        latent_channels: int = 8,
        num_frames: int = 8,
        latent_size: int = 8,
        width: int = 160,
        depth: int = 8,
        heads: int = 5,
        ratio: int = 4,
        text_width: int = 128,
    ) -> None:
        super().__init__()
        patch = 2 * latent_channels
        self.patch_in = nn.Linear(patch, width)
        self.space_position = nn.Parameter(torch.randn(latent_size, latent_size, width) * 0.1)
        self.time_position = nn.Parameter(torch.randn(num_frames // 2, 1, 1, width) * 0.1)
        self.text_in = nn.Linear(text_width, width)
        self.time_mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.text_pool = nn.Linear(text_width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads, ratio) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.patch_out = nn.Linear(width, patch)
        for layer in (self.modulation, self.modulation_out, self.patch_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, *, checkpointing: bool = False
    ) -> Tensor:
        """Predict the velocity.

        Args:
            latents: (b, 8, 8, 8, 8), channels, frames, height, width.
            timesteps: (b,), in [0, 1]; 1 is pure noise.
            text: (b, 12, 128), caption features.
            checkpointing: Recompute the blocks in the backward pass.

        Returns:
            The velocity, shaped like `latents`.
        """
        time, height = latents.shape[2] // 2, latents.shape[3]
        x = self.patch_in(rearrange(latents, "b c (t two) h w -> b t h w (two c)", two=2))
        x = rearrange(x + self.space_position + self.time_position, "b t h w d -> b (t h w) d")
        x = torch.cat([self.text_in(text), x], dim=1)
        features = timestep_features(timesteps).to(latents.dtype)
        condition = functional.silu(self.time_mlp(features) + self.text_pool(text.mean(1)))
        modulation = self.modulation(condition).unflatten(1, (6, -1))
        recompute = checkpointing and torch.is_grad_enabled()

        def run(x: Tensor, blocks: nn.ModuleList) -> Tensor:
            for block in blocks:
                x = (
                    checkpoint(block, x, modulation, use_reentrant=False)
                    if recompute
                    else block(x, modulation)
                )
            return x

        last = max(1, len(self.blocks) - 1)
        x = run(x, self.blocks[:1])
        x = feature_cache.residual(x, lambda x: run(x, self.blocks[1:last]))
        x = run(x, self.blocks[last:])
        shift, scale = self.modulation_out(condition)[:, None].chunk(2, dim=2)
        x = self.patch_out(self.norm_out(x[:, text.shape[1] :]) * (1 + scale) + shift)
        return rearrange(x, "b (t h w) (two c) -> b c (t two) h w", t=time, h=height, two=2)
