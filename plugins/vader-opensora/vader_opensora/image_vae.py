"""The image autoencoder that Open-Sora puts each frame through, under its official key names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks

#: Of the image latents, in 1.1 and 1.2 (not the 0.13025 of the SDXL autoencoder whose weights 1.2 has).
SPATIAL_SCALE = 0.18215

#: Draws standard normal numbers of a shape: the autoencoder's only randomness.
Draw = Callable[[Sequence[int]], Tensor]


class ImageVAE(nn.Module):
    """Diffusers' ``AutoencoderKL`` in parts of a few pictures, behind the official prefix ``module.``.

    Args:
        sizes: Constructor arguments of ``AutoencoderKL``.
        image_batch: Pictures that go through at once; changes no value but the order of draws.
    """

    module: Any

    def __init__(self, sizes: Mapping[str, Any], image_batch: int = 4) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.module = AutoencoderKL(**sizes)
        self.image_batch = image_batch
        #: Recompute parts in the backward pass where there is more than one.
        self.gradient_checkpointing = False

    def lighten(self, switch: RecomputeSwitch) -> None:
        """Keep fewer activations for the backward pass; values and parameters stay as they are.

        Args:
            switch: While on, blocks are recomputed.
        """
        from diffusers.models.resnet import ResnetBlock2D

        from vader_core.nn.fused_diffusers import fuse_decoder

        fuse_decoder(self.module.decoder)
        recompute_blocks(self, (ResnetBlock2D,), switch)

    def encode(self, images: Tensor, draw: Draw | None = None) -> Tensor:
        """Latents of pictures, times :data:`SPATIAL_SCALE`.

        Args:
            images: [n, 3, H, W] in [-1, 1]; sides that are no multiple of 8 are rounded down.
            draw: Source of standard normal numbers, called once a part; ``None`` takes the means.

        Returns:
            [n, 4, H // 8, W // 8].
        """
        latents = []
        for part in images.split(self.image_batch):
            posterior = self.module.encode(part).latent_dist
            latents.append(
                posterior.mean
                if draw is None
                else posterior.mean + posterior.std * draw(posterior.mean.shape)
            )
        return torch.cat(latents) * SPATIAL_SCALE

    def decode(self, latents: Tensor) -> Tensor:
        """[n, 4, h, w] → pictures [n, 3, 8 h, 8 w], nominally in [-1, 1]."""
        parts = (latents / SPATIAL_SCALE).split(self.image_batch)
        if self.gradient_checkpointing and torch.is_grad_enabled() and len(parts) > 1:
            return torch.cat([checkpoint(self._decode, part, use_reentrant=False) for part in parts])
        return torch.cat([self._decode(part) for part in parts])

    def _decode(self, latents: Tensor) -> Tensor:
        return self.module.decode(latents).sample
