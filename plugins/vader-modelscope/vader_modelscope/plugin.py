"""Registration of the ModelScope backbone and of the LoRA files of its official training code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vader_core.hookspecs import hookimpl
from vader_modelscope.checkpoint import PRETRAINED
from vader_modelscope.options import ModelScopeConfig

if TYPE_CHECKING:
    from vader_core.hookspecs import Register, RegisterLoraFormat


@hookimpl
def register_backbones(register: Register) -> None:
    """Announce `modelscope`."""
    register(
        "modelscope",
        "vader_modelscope.backbone:ModelScope",
        config=ModelScopeConfig,
        summary="ModelScope text-to-video 1.7b: 16 frames at 384x384 or 256x256",
        weights=(PRETRAINED,),
    )


@hookimpl
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Announce the two LoRA layouts that the official training code writes, and diffusers'."""
    register(
        "modelscope_list",
        "vader_modelscope.lora_format:ListFormat",
        summary="N_unet.pt of the official training code: a bare list, matched by order",
    )
    register(
        "modelscope_stable_lora",
        "vader_modelscope.lora_format:StableLoraFormat",
        summary="N_lora_text_to_video_unet.safetensors (stable_lora)",
    )
    register(
        "modelscope_diffusers",
        "vader_modelscope.lora_format:DiffusersFormat",
        summary="what diffusers' load_lora_adapter reads, for ModelScope's U-Net",
    )
