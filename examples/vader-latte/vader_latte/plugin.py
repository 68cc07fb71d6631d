"""Registers the backbone ``latte``."""

from __future__ import annotations

from vader_core.hookspecs import Register, hookimpl
from vader_core.weights import WeightFile

from vader_latte.options import LatteOptions


@hookimpl
def register_backbones(register: Register) -> None:
    """Announce ``latte``."""
    register(
        "latte",
        "vader_latte.backbone:Latte",
        config=LatteOptions,
        summary="Latte, text to video, 16 frames",
        weights=(WeightFile("maxin-cn/Latte-1"),),
    )
