"""Reward-gradient alignment of video diffusion models.

The public names, resolved lazily: ``from vader_core import hookimpl`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "hookimpl": "vader_core.hookspecs",
    "WeightFile": "vader_core.weights",
    "VaderError": "vader_core.errors",
    "MachineError": "vader_core.errors",
    "MissingDependencyError": "vader_core.errors",
    "Geometry": "vader_core.geometry",
    "GeometryRequest": "vader_core.geometry",
    "Randomness": "vader_core.randomness",
    "Prompt": "vader_core.prompts",
    "PromptSource": "vader_core.prompts",
    "Backbone": "vader_core.backbone",
    "Conditioning": "vader_core.backbone",
    "Defaults": "vader_core.backbone",
    "Text": "vader_core.backbone",
    "Sampler": "vader_core.sampler",
    "Plan": "vader_core.sampler",
    "State": "vader_core.sampler",
    "VariancePreserving": "vader_core.sampler",
    "VarianceExploding": "vader_core.sampler",
    "RectifiedFlow": "vader_core.sampler",
    "Reward": "vader_core.reward",
    "ImageReward": "vader_core.reward",
    "ClipReward": "vader_core.reward",
    "RewardOutput": "vader_core.reward",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vader_core' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
