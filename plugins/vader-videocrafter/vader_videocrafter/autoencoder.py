"""The Stable Diffusion autoencoder: diffusers' module, used frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.precision import without_autocast
from vader_videocrafter.architecture import AutoencoderArchitecture

TILE_SIZE = 256
"""Pixels along the side of a tile when decoding in tiles (diffusers' size for Stable Diffusion)."""


def build_autoencoder(architecture: AutoencoderArchitecture) -> nn.Module:
    """A fresh `AutoencoderKL` without trained weights, on torch's current default device."""
    from diffusers import AutoencoderKL

    levels = len(architecture.block_out_channels)
    build: Any = AutoencoderKL
    module: nn.Module = build(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=architecture.block_out_channels,
        layers_per_block=architecture.layers_per_block,
        latent_channels=architecture.latent_channels,
        norm_num_groups=32,
        sample_size=TILE_SIZE,
        scaling_factor=architecture.scaling_factor,
    )
    return module


class _Direction(nn.Module):
    """One direction of the autoencoder as a module, so that its weights can be swapped for a call."""

    def __init__(self, autoencoder: nn.Module, *, decode: bool) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.decode = decode

    def forward(self, x: Tensor) -> Tensor:
        if self.decode:
            return self.autoencoder.decode(x).sample
        return self.autoencoder.encode(x).latent_dist.mean


class FrameCodec:
    """Encodes and decodes frames, a few at a time, with weights that may rest on the CPU.

    Args:
        autoencoder: diffusers' `AutoencoderKL`, frozen.
        device: Where the work is done.
        slice_size: Frames decoded or encoded at once; None is all. Changes no number beyond rounding.
        tiling: Decode in overlapping, blended tiles; saves memory, changes the picture near their borders.
    """

    def __init__(
        self, autoencoder: Any, *, device: torch.device, slice_size: int | None, tiling: bool
    ) -> None:
        from diffusers.models.resnet import ResnetBlock2D

        from vader_core.nn.fused_diffusers import fuse_decoder

        self.autoencoder = autoencoder
        fuse_decoder(autoencoder.decoder)
        self.device = device
        self.slice_size = slice_size
        if tiling:
            autoencoder.enable_tiling()
        self._recompute = RecomputeSwitch()
        recompute_blocks(autoencoder, (ResnetBlock2D,), self._recompute)
        self._scale = float(autoencoder.config.scaling_factor)

    def decode(self, latents: Tensor, *, recompute: bool = False) -> Tensor:
        """Decodes frames.

        Args:
            latents: `[n, 4, h, w]`, scaled as the denoiser uses them.
            recompute: Hold the activations of one block (of one slice, where the weights rest on the CPU)
                at a
                time in the backward pass.

        Returns:
            `[n, 3, H, W]`, nominally in [-1, 1], not clamped, dtype of `latents`.
        """
        return self._run(latents / self._scale, decode=True, recompute=recompute)

    def encode(self, frames: Tensor) -> Tensor:
        """Means of the latent distribution of frames `[n, 3, H, W]` in [-1, 1]; `[n, 4, h, w]`, scaled."""
        return self._run(frames, decode=False, recompute=False) * self._scale

    def _run(self, x: Tensor, *, decode: bool, recompute: bool) -> Tensor:
        call = _Direction(self.autoencoder, decode=decode)
        # Copies rather than moves: a graph that still needs the weights on the device keeps its own.
        weights = {
            name: value.to(self.device, non_blocking=True)
            for name, value in call.state_dict().items()
            if value.device.type != self.device.type  # "cuda" and "cuda:0" are the same place
        }
        dtype = next(self.autoencoder.parameters()).dtype

        def run(part: Tensor) -> Tensor:
            # Autocast would return float32 from every norm and from every doubling of the picture.
            with without_autocast(self.device):
                return functional_call(call, weights, (part.to(dtype),)).to(x.dtype)

        slices = list(self._slices(x))
        resting = bool(weights)
        self._recompute.on = recompute and not resting
        recompute = recompute and resting
        if recompute and torch.is_grad_enabled():
            return torch.cat([checkpoint(run, part, use_reentrant=False) for part in slices])
        return torch.cat([run(part) for part in slices])

    def _slices(self, x: Tensor) -> Iterator[Tensor]:
        yield from x.split(self.slice_size or len(x))
