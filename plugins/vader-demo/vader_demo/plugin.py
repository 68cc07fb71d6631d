"""Registers the demo's components; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vader_core.hookspecs import hookimpl
from vader_demo.options import (
    ActionConfig,
    DemoConfig,
    DemoPromptsConfig,
    DemoStyleConfig,
    JudgeConfig,
    RewardConfig,
)

if TYPE_CHECKING:
    from vader_core.hookspecs import Register


def _prompts(config: Any, *, device: Any, dtype: Any) -> object:
    from vader_demo.prompts import DemoPrompts

    return DemoPrompts(config)


def _style(config: Any, *, device: Any, dtype: Any) -> object:
    from vader_demo.style import DemoStyle

    return DemoStyle(config)


def _postcard_alignment(config: Any, *, device: Any, dtype: Any) -> object:
    from vader_demo.style import DemoPostcardAlignment

    return DemoPostcardAlignment(config, device=device, dtype=dtype)


def _postcard(config: Any, *, device: Any, dtype: Any) -> object:
    from vader_demo.style import DemoPostcard

    return DemoPostcard()


@hookimpl
def register_backbones(register: Register) -> None:
    """Announce ``demo``."""
    register(
        "demo",
        "vader_demo.backbone:DemoBackbone",
        config=DemoConfig,
        summary="a small trained text-to-video model: 8 frames of 64x64, one shape that moves",
    )


@hookimpl
def register_rewards(register: Register) -> None:
    """Announce the rewards, their held-out twins and the judges."""
    for twin, name, note in (("", "", ""), ("HeldOut", "_held_out", "; a second net, for monitoring")):
        register(
            f"demo_aesthetic{name}",
            f"vader_demo.rewards:DemoAesthetic{twin}",
            config=RewardConfig,
            summary=f"how vivid, outlined and sunlit the demo's world is, about 0 to 10{note}",
        )
        register(
            f"demo_alignment{name}",
            f"vader_demo.rewards:DemoAlignment{twin}",
            config=RewardConfig,
            summary=f"cosine of video and caption in the demo's world{note}",
        )
        register(
            f"demo_action{name}",
            f"vader_demo.rewards:DemoAction{twin}",
            config=ActionConfig,
            summary=f"probability of a chosen motion in the demo's world{note}",
        )
    register("demo_postcard", _postcard, summary="how much a clip is framed like a postcard, at most 1")
    register(
        "demo_postcard_alignment",
        _postcard_alignment,
        config=RewardConfig,
        summary="cosine of caption and what lies inside a postcard's frame",
    )
    for attribute in ("shape", "colour", "background", "motion"):
        register(
            f"demo_judge_{attribute}",
            f"vader_demo.rewards:DemoJudge{attribute.capitalize()}",
            config=JudgeConfig,
            summary=f"1 where a judge sees the {attribute} that the caption names, else 0; no gradient",
        )


@hookimpl
def register_prompt_sources(register: Register) -> None:
    """Announce ``demo``, and clips of a look that it cannot make."""
    register(
        "demo_style",
        _style,
        config=DemoStyleConfig,
        summary="clips to learn from: the demo's world framed like postcards",
    )
    register(
        "demo",
        _prompts,
        config=DemoPromptsConfig,
        summary="captions of the demo's world; 1,024 of 3,840 are held out",
    )
