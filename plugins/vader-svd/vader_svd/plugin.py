"""Registers the backbone and the demo images; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vader_core.hookspecs import hookimpl
from vader_svd.checkpoint import PRETRAINED, wanted_files
from vader_svd.options import DemoImagesConfig, SvdConfig

if TYPE_CHECKING:
    from vader_core.hookspecs import Register, RegisterLoraFormat


def _demo_images(config: Any, *, device: Any, dtype: Any) -> object:
    from vader_svd.demo_images import DemoImages

    return DemoImages(config)


@hookimpl
def register_backbones(register: Register) -> None:
    """Announce ``svd``."""
    files = [
        file
        for repository in PRETRAINED.values()
        for variant in (None, "fp16")
        for file in wanted_files(repository, None, variant).values()
    ]
    register(
        "svd",
        "vader_svd.backbone:make_backbone",
        config=SvdConfig,
        summary="Stable Video Diffusion: a picture to 14 (xt: 25) frames",
        weights=tuple(files),
    )


@hookimpl
def register_prompt_sources(register: Register) -> None:
    """Announce ``svd_demo_images``."""
    register(
        "svd_demo_images",
        _demo_images,
        config=DemoImagesConfig,
        summary="pictures drawn by the plugin, as first frames",
    )


@hookimpl
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Announce the file that diffusers reads."""
    register(
        "svd_diffusers",
        "vader_svd.lora_format:DiffusersLora",
        summary="what diffusers' load_lora_adapter reads, for Stable Video Diffusion's U-Net",
    )
