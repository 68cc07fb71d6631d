"""``vader data encode``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vader_core.cli.help import GroupedCommand
from vader_core.cli.options import config_alone, model_options


@click.command(
    "encode",
    cls=GroupedCommand,
    examples=(
        "vader data encode --backbone opensora --data file:clips.csv --out cache",
        "vader train --backbone opensora --data cache:cache",
    ),
)
@model_options
@click.option("--data", required=True, metavar="DATA", help="file:PATH, videos:FOLDER or NAME.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The cache.")
@click.option("--windows", type=click.IntRange(min=1), default=1, help="Windows per clip.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(out: Path, windows: int, as_json: bool, **flags: Any) -> int:
    """Encode clips and captions beforehand; train from them with --data cache:DIR."""
    from vader_core.api.encode import encode_data
    from vader_core.registry import load_registry

    registry = load_registry()
    config = config_alone(flags, registry)

    def say(message: str) -> None:
        click.echo(message, err=True)

    counts = encode_data(config, out, windows=windows, registry=registry, say=say)
    if as_json:
        click.echo(json.dumps(counts))
        return 0
    click.echo(", ".join(f"{count} {name}" for name, count in counts.items()) + f" in {out}")
    return 0
