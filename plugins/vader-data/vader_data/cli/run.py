"""``vader data run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options


@click.command("run")
@click.argument("footage", type=click.Path(path_type=Path))
@options.planned
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The run's folder; run again to go on."
)
@click.option("--overwrite", is_flag=True, help="Begin again where --out holds an earlier run.")
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "process", "daft", "ray"]),
    help="auto is Daft where it is installed, else this process.",
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Shards under way at a time."
)
@click.option("--ray-address", default="", help="Of a running Ray cluster; left out, a local one is started.")
@click.option(
    "--shard", default="0/1", metavar="I/N", help="Work on every N-th shard from the I-th (Slurm arrays)."
)
@click.option("--shard-size", type=click.IntRange(1), default=8, show_default=True, help="Films per shard.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the films, and stop.")
def command(footage: Path, out: Path, **flags: Any) -> None:
    """From raw FOOTAGE (a folder, or one film) to clips, table, exports and report.

    The same command goes on where it was stopped, however it was stopped.
    """
    from ..manifest import read_manifest
    from ..running import Settings, parse_shard, run

    plan = options.plan_of(flags)
    if flags.pop("dry_run"):
        _show(plan, footage)
        return
    settings = Settings(
        engine=flags["engine"],
        workers=flags["workers"],
        address=flags["ray_address"],
        shard=parse_shard(flags["shard"]),
        shard_size=flags["shard_size"],
    )
    out = options.ready(out, flags["overwrite"])
    if not run(footage, out.resolve(), plan, settings, _tell):
        click.echo(
            "this part is finished; the table is written when all shards are: run the same command again"
        )
        return
    manifest = read_manifest(out)
    clips = [row for row in manifest.rows if row["type"] != "image"]
    options.tell_kept(sum(not row["reject_reason"] for row in clips), len(clips), out / "manifest.parquet")
    click.echo(f"report: {out / 'report.html'}")


def _tell(phase: str, done: int, count: int, facts: dict[str, Any]) -> None:
    click.echo(f"{phase}: {done} of {count} shards, {facts['kept']} of {facts['rows']} rows kept", err=True)


def _show(plan: Any, footage: Path) -> None:
    import yaml

    from ..probe import films

    click.echo(yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    click.echo(f"{len(films(footage))} films in {footage}")
