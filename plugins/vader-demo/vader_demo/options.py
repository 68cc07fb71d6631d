"""Options of the demo's components; imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from vader_demo.captions import MOTIONS

Silent = Literal["colour", "background", "motion"]


class Options(BaseModel):
    """Unknown options are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DemoConfig(Options):
    """Options of the backbone ``demo``."""

    weights: str = Field(
        "pretrained",
        description="pretrained (shipped with the plugin), a model.safetensors of `python -m "
        "vader_demo.build`, hub:REPO[/FILE][@REV] or random",
    )
    architecture: str = Field(
        "full", description="full, tiny (tests; random weights only), or a JSON file of the sizes"
    )
    seed: int = Field(0, ge=0, description="of random weights")


class RewardConfig(Options):
    """Options of a demo reward."""

    weights: str = Field(
        "pretrained",
        description="pretrained (shipped with the plugin) or a rewards.safetensors of `python -m "
        "vader_demo.build`",
    )


class ActionConfig(RewardConfig):
    """Options of ``demo_action``."""

    motion: Literal[MOTIONS] = Field("circling", description="the motion that is wanted")  # type: ignore[valid-type]


class JudgeConfig(Options):
    """Options of a judge."""

    weights: str = Field(
        "pretrained",
        description="pretrained (shipped with the plugin) or a judges.safetensors of `python -m "
        "vader_demo.build`",
    )
    value: str | None = Field(
        None, description="what it should see, e.g. circling; by default what the prompt names"
    )


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class DemoStyleConfig(Options):
    """Options of the clips ``demo_style``."""

    count: int = Field(96, ge=1, le=2000, description="clips")
    look: Literal["postcard", "plain"] = Field(
        "postcard", description="framed like postcards, or as the model's own world is: a data anchor"
    )
    seed: int = Field(0, ge=0, description="of what the captions leave open")


class DemoPromptsConfig(Options):
    """Options of the prompt source ``demo``."""

    without: Annotated[tuple[Silent, ...], BeforeValidator(_as_list)] = Field(
        (),
        description="attributes that the captions leave out: colour, background, motion, or a list of them",
    )
    negative: str | None = Field(None, description="negative prompt of every caption")
