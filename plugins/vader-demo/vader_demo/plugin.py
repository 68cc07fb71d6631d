"""Registers the demo's components; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vader_core.hookspecs import hookimpl
from vader_demo.options import ActionConfig, DemoConfig, DemoPromptsConfig, JudgeConfig, RewardConfig

if TYPE_CHECKING:
    from vader_core.hookspecs import Factory, Register


def _backbone(config: Any, *, device: Any, dtype: Any) -> object:
    from vader_demo.backbone import DemoBackbone

    return DemoBackbone(config, device=device, dtype=dtype)


def _prompts(config: Any, *, device: Any, dtype: Any) -> object:
    from vader_demo.prompts import DemoPrompts

    return DemoPrompts(config)


def _reward(class_name: str) -> Factory:
    def make(config: Any, *, device: Any, dtype: Any) -> object:
        from vader_demo import rewards

        return getattr(rewards, class_name)(config, device=device, dtype=dtype)

    return make


@hookimpl
def register_backbones(register: Register) -> None:
    """Announce ``demo``."""
    register(
        "demo",
        _backbone,
        config=DemoConfig,
        summary="a small trained text-to-video model: 8 frames of 64x64, one shape that moves",
    )


@hookimpl
def register_rewards(register: Register) -> None:
    """Announce the rewards, their held-out twins and the judges."""
    for twin, name, note in (("", "", ""), ("HeldOut", "_held_out", "; a second net, for monitoring")):
        register(
            f"demo_aesthetic{name}",
            _reward(f"DemoAesthetic{twin}"),
            config=RewardConfig,
            summary=f"how vivid, outlined and sunlit the demo's world is, about 0 to 10{note}",
        )
        register(
            f"demo_alignment{name}",
            _reward(f"DemoAlignment{twin}"),
            config=RewardConfig,
            summary=f"cosine of video and caption in the demo's world{note}",
        )
        register(
            f"demo_action{name}",
            _reward(f"DemoAction{twin}"),
            config=ActionConfig,
            summary=f"probability of a chosen motion in the demo's world{note}",
        )
    for attribute in ("shape", "colour", "background", "motion"):
        register(
            f"demo_judge_{attribute}",
            _reward(f"DemoJudge{attribute.capitalize()}"),
            config=JudgeConfig,
            summary=f"1 where a judge sees the {attribute} that the caption names, else 0; no gradient",
        )


@hookimpl
def register_prompt_sources(register: Register) -> None:
    """Announce ``demo``."""
    register(
        "demo",
        _prompts,
        config=DemoPromptsConfig,
        summary="captions of the demo's world; 1,024 of 3,840 are held out",
    )
