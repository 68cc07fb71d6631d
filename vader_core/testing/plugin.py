"""The testing plugin: components ``tiny``, ``tiny_image``, ``brightness``, ``motion`` and ``fixed``.

It is no installed entry point; a test adds it to a registry of its own with :func:`add_testing_plugin`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from vader_core import __version__
from vader_core.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    import torch

    from vader_core.registry import Registry
    from vader_core.testing.tiny import BrightnessReward, FixedPrompts, MotionReward, TinyBackbone


class TinyConfig(BaseModel):
    """Options of the backbones ``tiny`` and ``tiny_image``."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field(
        "random", description="`random`, or the path of a safetensors file that `tiny` wrote"
    )
    schedule: Literal["epsilon", "v", "exploding", "flow"] = Field(
        "flow",
        description="variance preserving (`epsilon`, `v`), variance `exploding` (EDM), or rectified `flow`",
    )
    temporal_compression: int = Field(1, ge=1, le=8, description="video frames that one latent frame holds")
    width: int = Field(16, ge=8, multiple_of=8, description="width of the denoiser's tokens")
    depth: int = Field(2, ge=1, description="number of the denoiser's blocks")
    seed: int = Field(0, description="seed of the random weights")


class FixedConfig(BaseModel):
    """Options of the prompt source ``fixed``."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(8, ge=1, description="number of training prompts; as many more are held out")


def _tiny(config: TinyConfig, *, device: torch.device, dtype: torch.dtype) -> TinyBackbone:
    from vader_core.testing.tiny import TinyBackbone

    return TinyBackbone(config, device=device, dtype=dtype)


def _tiny_image(config: TinyConfig, *, device: torch.device, dtype: torch.dtype) -> TinyBackbone:
    from vader_core.testing.tiny import TinyImageBackbone

    return TinyImageBackbone(config, device=device, dtype=dtype)


def _brightness(config: BaseModel, *, device: torch.device, dtype: torch.dtype) -> BrightnessReward:
    from vader_core.testing.tiny import BrightnessReward

    return BrightnessReward()


def _motion(config: BaseModel, *, device: torch.device, dtype: torch.dtype) -> MotionReward:
    from vader_core.testing.tiny import MotionReward

    return MotionReward()


def _fixed(config: FixedConfig, *, device: torch.device, dtype: torch.dtype) -> FixedPrompts:
    from vader_core.testing.tiny import FixedPrompts

    return FixedPrompts(config.count)


@hookimpl
def register_backbones(register: Register) -> None:
    """Announce ``tiny`` and ``tiny_image``."""
    register("tiny", _tiny, config=TinyConfig, summary="a few thousand random parameters, for tests")
    register("tiny_image", _tiny_image, config=TinyConfig, summary="the same, starting from a picture")


@hookimpl
def register_rewards(register: Register) -> None:
    """Announce ``brightness`` and ``motion``."""
    register("brightness", _brightness, summary="mean of the pixels")
    register("motion", _motion, summary="mean squared change from frame to frame")


@hookimpl
def register_prompt_sources(register: Register) -> None:
    """Announce ``fixed``."""
    register("fixed", _fixed, config=FixedConfig, summary="a handful of sentences")


def add_testing_plugin(registry: Registry) -> Registry:
    """``registry`` with these components added; the same object."""
    from vader_core.registry import Plugin

    registry.add(sys.modules[__name__], Plugin("testing", "vader-core", __version__, __name__))
    return registry
