"""The type of ``--device``."""

from __future__ import annotations

from typing import Any

import click


class Device(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 alone
    """``cpu`` or ``cuda``; Apple's is refused with the reason."""

    def __init__(self) -> None:
        super().__init__(["cpu", "cuda"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The device's name."""
        if value == "mps":
            self.fail(
                "Apple's mps is not supported, for no model's numbers were ever checked on it: leave "
                "--device out, and the CPU is used",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)
