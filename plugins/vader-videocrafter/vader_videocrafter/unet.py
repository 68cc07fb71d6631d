"""The VideoCrafter2 denoiser: a 2-D UNet with temporal convolutions and temporal attention in every block.

Parameters bear the official names, so that a checkpoint loads unchanged. Shape letters: b samples, t frames,
c channels, h w latent size, l text tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from vader_core.nn import feature_cache
from vader_videocrafter.architecture import UNetArchitecture
from vader_videocrafter.embedding import sinusoidal_embedding
from vader_videocrafter.norm import GroupNormSiLU
from vader_videocrafter.recompute import call
from vader_videocrafter.residual import Downsample, ResidualBlock, Upsample
from vader_videocrafter.transformer import SpatialTransformer, TemporalTransformer

DEFAULT_FPS = 16
"""Frames per second that the official UNet assumes when none is given."""

INITIAL_ATTENTION_HEADS = 8
"""The initial temporal attention has eight heads at any width."""


def _mlp(in_width: int, out_width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_width, out_width), nn.SiLU(), nn.Linear(out_width, out_width))


class VideoUNet(nn.Module):
    """Predicts the noise in video latents from text, timestep and frame rate."""

    def __init__(self, architecture: UNetArchitecture | None = None) -> None:
        super().__init__()
        self.architecture = architecture or UNetArchitecture()
        a = self.architecture
        self.gradient_checkpointing = a.use_checkpoint
        width = a.model_channels
        self.time_embed = _mlp(width, 4 * width)
        if a.fps_cond:
            self.fps_embedding = _mlp(width, 4 * width)
        if a.addition_attention:
            self.init_attn = nn.ModuleList([self._initial_attention()])
        widths = [width * multiple for multiple in a.channel_mult]
        self.input_blocks, skips = self._down(widths)
        self.middle_block = nn.ModuleList(
            [
                self._residual(widths[-1], widths[-1]),
                *self._attention(widths[-1]),
                self._residual(widths[-1], widths[-1]),
            ]
        )
        self.output_blocks = self._up(widths, skips)
        self.out = nn.Sequential(
            GroupNormSiLU(32, width), nn.Identity(), nn.Conv2d(width, a.out_channels, 3, padding=1)
        )

    # Construction.

    def _initial_attention(self) -> TemporalTransformer:
        a = self.architecture
        return TemporalTransformer(
            a.model_channels,
            INITIAL_ATTENTION_HEADS,
            a.num_head_channels,
            depth=a.transformer_depth,
            use_linear=False,
            checkpointing=a.use_checkpoint,
        )

    def _residual(self, in_channels: int, out_channels: int) -> ResidualBlock:
        a = self.architecture
        return ResidualBlock(in_channels, out_channels, 4 * a.model_channels, temporal_conv=a.temporal_conv)

    def _attention(self, channels: int) -> list[nn.Module]:
        a = self.architecture
        heads = channels // a.num_head_channels
        spatial = SpatialTransformer(
            channels,
            heads,
            a.num_head_channels,
            depth=a.transformer_depth,
            context_width=a.context_dim,
            use_linear=a.use_linear,
            checkpointing=a.use_checkpoint,
        )
        if not a.temporal_attention:
            return [spatial]
        temporal = TemporalTransformer(
            channels,
            heads,
            a.num_head_channels,
            depth=a.transformer_depth,
            use_linear=a.use_linear,
            checkpointing=a.use_checkpoint,
        )
        return [spatial, temporal]

    def _attention_at(self, level: int, channels: int) -> list[nn.Module]:
        return self._attention(channels) if 2**level in self.architecture.attention_resolutions else []

    def _down(self, widths: list[int]) -> tuple[nn.ModuleList, list[int]]:
        a = self.architecture
        blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(a.in_channels, a.model_channels, 3, padding=1)])])
        skips = [a.model_channels]
        for level, (before, width) in enumerate(pairwise([a.model_channels, *widths])):
            for index in range(a.num_res_blocks):
                residual = self._residual(before if index == 0 else width, width)
                blocks.append(nn.ModuleList([residual, *self._attention_at(level, width)]))
                skips.append(width)
            if level < len(widths) - 1:
                blocks.append(nn.ModuleList([Downsample(width)]))
                skips.append(width)
        return blocks, skips

    def _up(self, widths: list[int], skips: list[int]) -> nn.ModuleList:
        blocks = nn.ModuleList()
        channels = widths[-1]
        skips = list(skips)
        for level, width in reversed(list(enumerate(widths))):
            for index in range(self.architecture.num_res_blocks + 1):
                layers = [
                    self._residual(channels + skips.pop(), width),
                    *self._attention_at(level, width),
                ]
                channels = width
                if level > 0 and index == self.architecture.num_res_blocks:
                    layers.append(Upsample(width))
                blocks.append(nn.ModuleList(layers))
        return blocks

    # Computation.

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights, in which the activations start."""
        return next(self.out.parameters()).dtype

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Switches recomputation of residual and transformer blocks on or off; changes no value."""
        self.gradient_checkpointing = enabled
        for module in self.modules():
            if isinstance(module, SpatialTransformer | TemporalTransformer):
                module.checkpointing = enabled

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        timesteps: Num[Tensor, " b"],
        context: Float[Tensor, "b l d"],
        fps: Num[Tensor, " b"] | int = DEFAULT_FPS,
    ) -> Float[Tensor, "b c t h w"]:
        """Predicts the noise.

        Args:
            latents: `[b, 4, t, h, w]`, noisy latents; h and w multiples of 8 in the full model.
            timesteps: `[b]`, 0..999.
            context: `[b, l, d]`, text tokens, shared by all frames.
            fps: Frames per second, `[b]` or one number for all.

        Returns:
            Predicted noise, shape and dtype of `latents`.
        """
        num_frames = latents.shape[2]
        context = context.to(self.dtype)
        embedding = self._embed(latents, timesteps, fps)
        h = latents.to(self.dtype).transpose(1, 2).flatten(0, 1)
        first = self._run(self.input_blocks[0], h, embedding, context, num_frames)
        if self.architecture.addition_attention:
            first = self.init_attn[0](first, num_frames)

        def deep(h: Tensor) -> Tensor:
            skips: list[Tensor] = []
            for block in self.input_blocks[1:]:
                h = self._run(block, h, embedding, context, num_frames)
                skips.append(h)
            h = self._run(self.middle_block, h, embedding, context, num_frames)
            for block in self.output_blocks[:-1]:
                h = torch.cat([h, skips.pop()], dim=1)
                h = self._run(block, h, embedding, context, num_frames)
            return h

        h = feature_cache.output(first, deep)
        h = self._run(self.output_blocks[-1], torch.cat([h, first], dim=1), embedding, context, num_frames)
        h = self.out(h)
        return h.unflatten(0, (-1, num_frames)).transpose(1, 2).to(latents.dtype)

    def _embed(self, latents: Tensor, timesteps: Tensor, fps: Tensor | int) -> Tensor:
        width = self.architecture.model_channels
        embedding = self.time_embed(sinusoidal_embedding(timesteps, width).to(self.dtype))
        if self.architecture.fps_cond:
            if isinstance(fps, int):
                fps = torch.full((latents.shape[0],), fps, device=latents.device)
            embedding = embedding + self.fps_embedding(sinusoidal_embedding(fps, width).to(self.dtype))
        return embedding

    def _run(self, layers: Any, h: Tensor, embedding: Tensor, context: Tensor, num_frames: int) -> Tensor:
        for layer in layers:
            if isinstance(layer, ResidualBlock):
                h = call(layer, self.gradient_checkpointing, h, embedding, num_frames)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, context)
            elif isinstance(layer, TemporalTransformer):
                h = layer(h, num_frames)
            else:
                h = layer(h)
        return h
