"""The three networks from their constructor parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vader_core.nn.build import built
from vader_svd.architecture import Architecture


def build_unet(architecture: Architecture) -> nn.Module:
    """The denoiser, diffusers' `UNetSpatioTemporalConditionModel`, freshly initialised."""
    from diffusers import UNetSpatioTemporalConditionModel

    return _construct("unet", UNetSpatioTemporalConditionModel, architecture.unet)


def build_autoencoder(architecture: Architecture) -> nn.Module:
    """Diffusers' `AutoencoderKLTemporalDecoder`, freshly initialised."""
    from diffusers import AutoencoderKLTemporalDecoder

    return _construct("vae", AutoencoderKLTemporalDecoder, architecture.vae)


def build_image_encoder(architecture: Architecture) -> nn.Module:
    """Transformers' `CLIPVisionModelWithProjection`, freshly initialised."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = _construct("image_encoder", CLIPVisionConfig, architecture.image_encoder)
    return _construct("image_encoder", CLIPVisionModelWithProjection, {"config": config})


def recomputed_blocks() -> tuple[type[nn.Module], ...]:
    """The units of gradient checkpointing, in the U-Net and in the decoder.

    Smaller than diffusers' own: those leave the temporal transformers' activations, and those of three
    blocks of the decoder at full size, in memory together.
    """
    from diffusers.models.resnet import SpatioTemporalResBlock
    from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

    return SpatioTemporalResBlock, TransformerSpatioTemporalModel


def _construct(part: str, factory: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    made = built(lambda: factory(**parameters), what=f"backbone 'svd': architecture, {part}")
    if isinstance(made, nn.Module) and torch.empty(0).device.type == "meta":
        # Diffusers makes a few scalars on the CPU whatever the default device is.
        return nn.Module.to(made, "meta")
    return made
