"""The plan of a run on the screen: ``vader train --dry-run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vader_core.registry import Registry
from vader_core.run.config import RunConfig


def plan_command(config: RunConfig, out: Path, registry: Registry, *, processes: int, as_json: bool) -> None:
    """Make the plan and print it: lines for a person, the memory last, or one JSON object."""
    from vader_core.api.plan import plan
    from vader_core.api.plan_words import known_words, memory_words, wanted_files
    from vader_core.cli.progress import PhaseLine

    def show(facts: dict[str, Any], whole: bool) -> None:
        with progress.paused():
            for label, text in [memory_words(facts)] if whole else known_words(config, facts, out, registry):
                first, *rest = text.split("\n")
                click.echo(f"{label:<9}{first}")
                for line in rest:
                    click.echo(f"{'':<9}{line}")

    with PhaseLine(quiet=as_json) as progress:
        if not as_json:
            plan(config, registry=registry, processes=processes, progress=progress, found=show)
            return
        facts = plan(config, registry=registry, processes=processes, progress=progress)
    click.echo(json.dumps({**facts, "out": str(out), "files": wanted_files(config, registry)}))
