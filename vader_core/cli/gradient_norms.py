"""``vader gradient-norms``."""

from __future__ import annotations

import json
from typing import Any

import click

from vader_core.cli.options import config_alone, model_options, reward_options, training_options
from vader_core.errors import VaderError
from vader_core.registry import load_registry


@click.command("gradient-norms")
@model_options
@reward_options
@training_options
@click.option(
    "--last", default="1", show_default=True, help="Counts of last steps to measure together: 1,2,5."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(last: str, as_json: bool, **flags: Any) -> None:
    """Print the norm of the reward's gradient for every sampling step, and for the last few together.

    It shows which steps are worth differentiating. Without --reward the loss is minus the brightness of the
    middle frame. Norms compare steps with each other, not models or rewards.
    """
    registry = load_registry()
    config = config_alone(flags, registry)
    try:
        counts = [int(word) for word in last.split(",") if word.strip()]
    except ValueError:
        raise VaderError(f"--last {last!r} is not allowed: use whole numbers, such as 1,2,5") from None

    from vader_core.api.gradient_norms import gradient_norms

    found = gradient_norms(config, last=counts, registry=registry)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(found["video"])
    click.echo("step    timestep  gradient norm")
    for row in found["steps"]:
        click.echo(f"{row['step']:4d}  {row['timestep']:10.4g}  {row['norm']:13.3e}")
    for count, norm in found["last"].items():
        click.echo(f"last:{count:<4s} together  {norm:13.3e}")
