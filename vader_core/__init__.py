"""Reward-gradient alignment of video diffusion models.

The public names, resolved lazily: ``from vader_core import hookimpl`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vader_core.backbone import Backbone as Backbone
    from vader_core.backbone import Conditioning as Conditioning
    from vader_core.backbone import Defaults as Defaults
    from vader_core.backbone import Text as Text
    from vader_core.errors import MachineError as MachineError
    from vader_core.errors import MissingDependencyError as MissingDependencyError
    from vader_core.errors import VaderError as VaderError
    from vader_core.geometry import Geometry as Geometry
    from vader_core.geometry import GeometryRequest as GeometryRequest
    from vader_core.hookspecs import hookimpl as hookimpl
    from vader_core.prompts import Prompt as Prompt
    from vader_core.prompts import PromptSource as PromptSource
    from vader_core.randomness import Randomness as Randomness
    from vader_core.reward import ClipReward as ClipReward
    from vader_core.reward import ImageReward as ImageReward
    from vader_core.reward import Reward as Reward
    from vader_core.reward import RewardOutput as RewardOutput
    from vader_core.sampler import Plan as Plan
    from vader_core.sampler import RectifiedFlow as RectifiedFlow
    from vader_core.sampler import Sampler as Sampler
    from vader_core.sampler import State as State
    from vader_core.sampler import VarianceExploding as VarianceExploding
    from vader_core.sampler import VariancePreserving as VariancePreserving
    from vader_core.weights import WeightFile as WeightFile

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
