"""Registration; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vader_core.hookspecs import hookimpl
from vader_opensora.options import OpenSoraOptions, RFlowOptions
from vader_opensora.v11.options import OpenSora11Options, ToyBricksOptions
from vader_opensora.weight_files import AUTOENCODER, AUTOENCODER_11, DENOISER, DENOISER_11, TEXT_ENCODER

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vader_core.hookspecs import Register, RegisterLoraFormat


def make_rflow(config: BaseModel, *, device: object, dtype: object) -> object:
    """The sampler; it holds no tensors, so device and dtype do not matter."""
    import torch

    from vader_opensora.sampler import RFlow

    options = cast("RFlowOptions", config)
    return RFlow(
        timestep_transform=options.timestep_transform,
        conditioning_dtype=getattr(torch, options.conditioning_dtype),
    )


def make_toy_bricks(config: BaseModel, *, device: object, dtype: object) -> object:
    """The prompts of text2bricks' recipes."""
    from vader_opensora.v11.toy_bricks import ToyBricks

    return ToyBricks()


@hookimpl
def register_backbones(register: Register) -> None:
    """Announces `opensora` and `opensora11`."""
    register(
        "opensora",
        "vader_opensora.backbone:OpenSora",
        config=OpenSoraOptions,
        summary="Open-Sora 1.2, text or first frames to video, 144p to 720p, 2 to 16 s (1.2 B STDiT3)",
        weights=(DENOISER, AUTOENCODER, TEXT_ENCODER),
    )
    register(
        "opensora11",
        "vader_opensora.v11.backbone:OpenSora11",
        config=OpenSora11Options,
        summary="Open-Sora 1.1 and text2bricks, text, pictures or clips to video, any size and length "
        "(0.77 B STDiT2)",
        weights=(DENOISER_11, AUTOENCODER_11, TEXT_ENCODER),
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
def register_prompt_sources(register: Register) -> None:
    """Announces `toy_bricks`."""
    register(
        "toy_bricks",
        make_toy_bricks,
        config=ToyBricksOptions,
        summary="eight prompts about toy bricks in stop motion, for text2bricks",
    )


@hookimpl
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Announces the files of VADER's Open-Sora script."""
    register(
        "opensora",
        "vader_opensora.lora_format:OpenSoraLora",
        summary="VADER's .pt files for Open-Sora 1.2 (alpha 8 at every rank)",
    )
