"""Registers the backbone ``latte``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from vader_core.hookspecs import Register, hookimpl
from vader_core.weights import WeightFile


class LatteOptions(BaseModel):
    """Options of ``latte``."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field("pretrained", description="pretrained, a folder, hub:OWNER/NAME or random")
    architecture: Literal["full", "tiny"] = Field("full", description="`tiny` for tests, with random weights")


def _latte(config: LatteOptions, *, device: Any, dtype: Any) -> Any:
    from vader_latte.backbone import Latte

    return Latte(config, device=device, dtype=dtype)


@hookimpl
def register_backbones(register: Register) -> None:
    """Announce ``latte``."""
    files = (WeightFile("maxin-cn/Latte-1"),)
    register("latte", _latte, config=LatteOptions, summary="Latte, text to video, 16 frames", weights=files)
