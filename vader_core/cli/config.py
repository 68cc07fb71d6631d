"""``vader config``."""

from __future__ import annotations

from typing import Any

import click

from vader_core.cli.help import GroupedCommand
from vader_core.cli.options import config_of, is_bare, model_options, reward_options, training_options
from vader_core.registry import load_registry


@click.command("config", cls=GroupedCommand, examples=("vader config --recipe demo > mine.yaml",))
@model_options
@reward_options
@training_options
def command(**flags: Any) -> None:
    """Print the resolved run as YAML, every default filled in; `--config` reads it back."""
    from vader_core.api.configure import complete, complete_stages
    from vader_core.run.layers import to_yaml

    registry = load_registry()
    if is_bare(flags):
        flags["recipe"] = "demo"
    config = config_of(flags, registry)
    whole = complete_stages(config, registry) if config.stages else complete(config, registry)
    click.echo(to_yaml(whole), nl=False)
