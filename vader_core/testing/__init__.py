"""What plugin authors and this project test with: a tiny backbone, two rewards, and the conformance kit.

The names are resolved lazily, so that importing a plugin module next to this package costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "TinyBackbone": "vader_core.testing.tiny",
    "TinyImageBackbone": "vader_core.testing.tiny",
    "TinyConfig": "vader_core.testing.plugin",
    "BrightnessReward": "vader_core.testing.tiny",
    "MotionReward": "vader_core.testing.tiny",
    "FixedPrompts": "vader_core.testing.tiny",
    "tiny_backbone": "vader_core.testing.tiny",
    "ConformanceError": "vader_core.testing.conformance",
    "Clause": "vader_core.testing.conformance",
    "Report": "vader_core.testing.conformance",
    "check_backbone": "vader_core.testing.backbones",
    "backbone_clauses": "vader_core.testing.backbones",
    "backbone_subject": "vader_core.testing.backbones",
    "check_sampler": "vader_core.testing.samplers",
    "sampler_clauses": "vader_core.testing.samplers",
    "sampler_subject": "vader_core.testing.samplers",
    "check_reward": "vader_core.testing.rewards",
    "reward_clauses": "vader_core.testing.rewards",
    "reward_subject": "vader_core.testing.rewards",
    "check_prompt_source": "vader_core.testing.prompt_sources",
    "prompt_source_clauses": "vader_core.testing.prompt_sources",
    "prompt_source_subject": "vader_core.testing.prompt_sources",
    "add_testing_plugin": "vader_core.testing.plugin",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vader_core.testing' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
