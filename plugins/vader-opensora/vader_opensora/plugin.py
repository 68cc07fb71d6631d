"""Registration; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vader_core.hookspecs import hookimpl
from vader_opensora.options import OpenSoraOptions, RFlowOptions
from vader_opensora.weight_files import AUTOENCODER, DENOISER, TEXT_ENCODER

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from vader_core.hookspecs import Register, RegisterCommand, RegisterLoraFormat


def make_backbone(config: BaseModel, *, device: object, dtype: object) -> object:
    """The backbone, without its weights."""
    from vader_opensora.backbone import OpenSora

    return OpenSora(
        cast("OpenSoraOptions", config), device=cast("torch.device", device), dtype=cast("torch.dtype", dtype)
    )


def make_rflow(config: BaseModel, *, device: object, dtype: object) -> object:
    """The sampler; it holds no tensors, so device and dtype are of no matter."""
    import torch

    from vader_opensora.sampler import RFlow

    options = cast("RFlowOptions", config)
    return RFlow(
        timestep_transform=options.timestep_transform,
        conditioning_dtype=getattr(torch, options.conditioning_dtype),
    )


@hookimpl
def register_backbones(register: Register) -> None:
    """Announces `opensora`."""
    register(
        "opensora",
        make_backbone,
        config=OpenSoraOptions,
        summary="Open-Sora 1.2, text or first frames to video, 144p to 720p, 2 to 16 s (1.2 B STDiT3)",
        weights=(DENOISER, AUTOENCODER, TEXT_ENCODER),
    )


@hookimpl
def register_samplers(register: Register) -> None:
    """Announces `rflow`."""
    register(
        "rflow",
        make_rflow,
        config=RFlowOptions,
        summary="Open-Sora's rectified flow: time shift by size and length, frame masks",
    )


@hookimpl
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Announces the files of VADER's Open-Sora script."""
    register(
        "opensora",
        "vader_opensora.lora_format:OpenSoraLora",
        summary="VADER's .pt files for Open-Sora 1.2 (alpha 8 at every rank)",
    )


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """Announces the measurement behind the default of ``--gradient``."""
    register(
        "opensora-gradients",
        "vader_opensora.gradient_norms:command",
        summary="gradient norm of the LoRA by sampling step (Open-Sora)",
    )
