"""Registration; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vader_core.hookspecs import hookimpl
from vader_videocrafter.options import DDIMOptions, VideoCrafterOptions
from vader_videocrafter.weight_files import CHECKPOINT, LORA_FILES

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vader_core.hookspecs import Register, RegisterLoraFormat


def make_ddim(config: BaseModel, *, device: object, dtype: object) -> object:
    """The sampler; it holds no tensors, so device and dtype do not matter."""
    from vader_videocrafter.sampler import VideoCrafterDDIM

    return VideoCrafterDDIM(eta=cast("DDIMOptions", config).eta)


@hookimpl
def register_backbones(register: Register) -> None:
    """Announces `videocrafter`."""
    register(
        "videocrafter",
        "vader_videocrafter.backbone:VideoCrafter",
        config=VideoCrafterOptions,
        summary="VideoCrafter2, text to video, 320x512 (1.41 B UNet)",
        weights=(CHECKPOINT, *LORA_FILES),
    )


@hookimpl
def register_samplers(register: Register) -> None:
    """Announces `ddim_videocrafter`."""
    register(
        "ddim_videocrafter",
        make_ddim,
        config=DDIMOptions,
        summary="VideoCrafter2's DDIM: scaled clean latents, noise in every step",
    )


@hookimpl
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Announces the files of VADER's VideoCrafter script and of T2V-Turbo."""
    register(
        "videocrafter",
        "vader_videocrafter.lora_format:VideoCrafterLora",
        summary="VADER's .pt files for VideoCrafter2 (alpha 8 at every rank)",
    )
    register(
        "t2v_turbo",
        "vader_videocrafter.lora_format:T2VTurboLora",
        summary="T2V-Turbo's unet_lora.pt for VideoCrafter2, a student for `--rollout-lora`; read only",
    )
