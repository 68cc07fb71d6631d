"""The type of every path on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from vader_core.paths import entered


class EnteredPath(click.Path):
    """A path whose ``~`` is expanded also where the shell leaves it, as in ``--out=~/runs``."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        return entered(Path(os.fsdecode(super().convert(value, param, ctx))))
