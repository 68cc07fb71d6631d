"""Registration; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vader_core.hookspecs import hookimpl
from vader_easyanimate.options import DDIMOptions, EasyAnimateOptions, PNDMOptions
from vader_easyanimate.weight_files import MODELS

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vader_core.hookspecs import Register, RegisterLoraFormat


def make_ddim(config: BaseModel, *, device: object, dtype: object) -> object:
    """The sampler; it holds no tensors, so device and dtype do not matter."""
    from vader_easyanimate.ddim import ClippedDDIM

    options = cast("DDIMOptions", config)
    return ClippedDDIM(options.clip, options.steps_offset)


def make_pndm(config: BaseModel, *, device: object, dtype: object) -> object:
    """The sampler, likewise."""
    from vader_easyanimate.pndm import PNDM

    return PNDM(cast("PNDMOptions", config).steps_offset)


def make_euler_ancestral(config: BaseModel, *, device: object, dtype: object) -> object:
    """The sampler, likewise."""
    from vader_easyanimate.euler_ancestral import EulerAncestral

    return EulerAncestral()


@hookimpl
def register_backbones(register: Register) -> None:
    """Announces `easyanimate`."""
    register(
        "easyanimate",
        "vader_easyanimate.backbone:EasyAnimate",
        config=EasyAnimateOptions,
        summary="EasyAnimate V2, text to video and pictures, 512 and 768 px, 1 to 144 frames (1.4 B)",
        weights=tuple(MODELS.values()),
    )


@hookimpl
def register_samplers(register: Register) -> None:
    """Announces the samplers of EasyAnimate's interface that the core has not."""
    register("euler_ancestral", make_euler_ancestral, summary="Euler A: Euler with fresh noise in every step")
    register(
        "pndm",
        make_pndm,
        config=PNDMOptions,
        summary="PNDM: Runge-Kutta start, then linear multistep; 9 more calls than diffusers' steps",
    )
    register(
        "easyanimate_ddim",
        make_ddim,
        config=DDIMOptions,
        summary="DDIM as EasyAnimate runs it: to no noise at all, clean estimates clipped if asked for",
    )


@hookimpl
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Announces the files of EasyAnimate's trainer."""
    register(
        "easyanimate",
        "vader_easyanimate.lora_format:EasyAnimateLora",
        summary="EasyAnimate's LoRA files (kohya: lora_unet__…, one alpha per module)",
    )
