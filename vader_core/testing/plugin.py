"""The testing plugin: components ``tiny``, ``tiny_image``, ``brightness``, ``motion`` and ``fixed``.

It is no installed entry point; a test adds it to a registry of its own with :func:`add_testing_plugin`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pydantic import BaseModel

from vader_core import __version__
from vader_core.hookspecs import Register, hookimpl
from vader_core.testing.options import FixedConfig, TinyConfig

if TYPE_CHECKING:
    import torch

    from vader_core.registry import Registry
    from vader_core.testing.tiny import BrightnessReward, FixedPrompts, MotionReward, TinyBackbone


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
