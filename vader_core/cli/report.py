"""``vader report``."""

from __future__ import annotations

from pathlib import Path

import click

from vader_core.errors import VaderError


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> None:
    """Write the web page of RUN again, from the run directory alone."""
    from vader_core.report import write_report

    if not (run / "config.yaml").is_file():
        raise VaderError(f"{run} is not a run directory: it has no config.yaml")
    click.echo(write_report(run))
