"""``vader push``."""

from __future__ import annotations

from pathlib import Path

import click

from vader_core.cli.help import GroupedCommand
from vader_core.cli.paths import EnteredPath


@click.command("push", cls=GroupedCommand, examples=("vader push runs/demo me/demo-lora --dry-run",))
@click.argument("run", type=EnteredPath())
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--dry-run", is_flag=True, help="Write the upload and send nothing.")
@click.option("--best", is_flag=True, help="The best checkpoint in place of the newest.")
@click.option("--clips", type=click.IntRange(min=0), default=4, show_default=True, help="Clips of each kind.")
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option("--out", type=EnteredPath(), help="Folder of the upload; RUN/hub by default.")
def command(
    run: Path, repository: str, dry_run: bool, best: bool, clips: int, private: bool, out: Path | None
) -> None:
    """Share RUN on the hub: its weights, some clips, and a model card that says how it was made.

    HF_TOKEN is sent where it is set.
    """
    from vader_core.api.push import push
    from vader_core.cli.progress import PhaseLine
    from vader_core.registry import load_registry

    with PhaseLine() as progress:
        folder = push(
            run,
            repository,
            out=out,
            clips=clips,
            best=best,
            private=private,
            dry_run=dry_run,
            registry=load_registry(),
            progress=progress,
        )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    what = "would be sent to" if dry_run else "sent to"
    click.echo(f"{folder}: {size / 2**20:.1f} MiB {what} https://huggingface.co/{repository}")
