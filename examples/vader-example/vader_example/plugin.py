"""Registers the three components; what is heavy is imported when one is made."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from vader_core.hookspecs import Register, hookimpl


class FruitOptions(BaseModel):
    """Options of ``example_fruit``."""

    model_config = ConfigDict(extra="forbid")

    place: str = Field("on a wooden table", description="where the fruit lies")


def _redness(config: BaseModel, *, device: Any, dtype: Any) -> Any:
    from vader_example.reward import Redness

    return Redness()


def _quadratic(config: BaseModel, *, device: Any, dtype: Any) -> Any:
    from vader_example.sampler import QuadraticFlow

    return QuadraticFlow()


def _fruit(config: FruitOptions, *, device: Any, dtype: Any) -> Any:
    from vader_example.prompts import Fruit

    return Fruit(config.place)


@hookimpl
def register_rewards(register: Register) -> None:
    """Announce ``example_redness``."""
    register("example_redness", _redness, summary="how much more red than green and blue there is")


@hookimpl
def register_samplers(register: Register) -> None:
    """Announce ``example_quadratic``."""
    register("example_quadratic", _quadratic, summary="rectified flow in steps that grow")


@hookimpl
def register_prompt_sources(register: Register) -> None:
    """Announce ``example_fruit``."""
    register("example_fruit", _fruit, config=FruitOptions, summary="fruit in several colours")
