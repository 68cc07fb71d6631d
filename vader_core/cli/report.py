"""``vader report``."""

from __future__ import annotations

from pathlib import Path

import click

from vader_core.cli.help import GroupedCommand
from vader_core.cli.paths import EnteredPath


@click.command("report", cls=GroupedCommand, examples=("vader report runs/demo",))
@click.argument("run", type=EnteredPath())
def command(run: Path) -> None:
    """Write the web page of RUN again, from the run directory alone."""
    from vader_core.report import write_report

    click.echo(write_report(run))
