"""``vader data cut``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vader_core.errors import VaderError
from vader_core.paths import entered

from . import options


@click.command("cut")
@click.argument("footage", type=click.Path(path_type=Path))
@options.planned
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the clips and the manifest."
)
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run left there.")
def command(footage: Path, out: Path, overwrite: bool, **flags: Any) -> None:
    """Cut FOOTAGE at its scenes; write clips and a manifest."""
    from ..components import component
    from ..manifest import ordered, write_manifest
    from ..probe import films
    from ..stages import cut_rows, film_rows

    plan = options.plan_of(flags)
    footage = entered(footage).resolve()
    found = films(footage) if footage.exists() else []
    if not found:
        raise VaderError(f"footage {footage}: there is no film there")
    out = options.ready(out, overwrite).resolve()
    if (out / "manifest.parquet").exists():
        raise VaderError(f"{out} holds a manifest already: choose another --out, or --overwrite")
    detector = component("detector", plan.detector.name).make(plan.detector.options)
    rows = ordered(cut_rows(film_rows(found, footage), detector, plan.cut, out))
    write_manifest(out / "manifest.parquet", rows, (), {"plan": plan.model_dump(mode="json")})
    options.tell_kept(sum(not row["reject_reason"] for row in rows), len(rows), out / "manifest.parquet")
