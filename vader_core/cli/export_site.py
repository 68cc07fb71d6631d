"""``vader export-site``."""

from __future__ import annotations

from pathlib import Path

import click

from vader_core.cli.paths import EnteredPath


@click.command("export-site")
@click.argument("sources", nargs=-1, required=True, type=EnteredPath(), metavar="RUN…")
@click.option(
    "--out", type=EnteredPath(), default=Path("site"), show_default=True, help="Folder of the site."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier site in --out.")
def command(sources: tuple[Path, ...], out: Path, overwrite: bool) -> None:
    """Write RUNs, folders of clips and pages of `vader compare` as static pages.

    Only the pages go along: no checkpoints and no configuration files.
    """
    from vader_core.api.export_site import export_site

    click.echo(export_site(sources, out, overwrite=overwrite))
