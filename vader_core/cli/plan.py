"""The plan of a run on the screen: ``vader train --dry-run``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vader_core.registry import Registry
from vader_core.run.config import RunConfig


def plan_command(config: RunConfig, out: Path, registry: Registry, *, processes: int, as_json: bool) -> None:
    """Make the plan and print it: as lines for a person, or as one JSON object."""
    from vader_core.api.plan import plan
    from vader_core.api.plan_words import plan_words, wanted_files
    from vader_core.cli.progress import PhaseLine

    with PhaseLine(quiet=as_json) as progress:
        facts = plan(config, registry=registry, processes=processes, progress=progress)
    if as_json:
        click.echo(json.dumps({**facts, "out": str(out), "files": wanted_files(config, registry)}))
        return
    for label, text in plan_words(config, facts, out, registry=registry):
        first, *rest = text.split("\n")
        click.echo(f"{label:<9}{first}")
        for line in rest:
            click.echo(f"{'':<9}{line}")
