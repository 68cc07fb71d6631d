"""The commands that work on a manifest: score, caption, filter, dedup, export, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vader_core.errors import VaderError

from ..manifest import Manifest, Row
from ..plan import Plan
from . import options

_MANIFEST = click.argument("manifest", type=click.Path(path_type=Path))


def _changed(
    path: Path, plan: Plan, change: Callable[[Manifest], list[Row]], scores: tuple[str, ...] = ()
) -> None:
    """Read a manifest, change its rows, write it in its place."""
    from ..manifest import ordered, read_manifest, write_manifest

    manifest = read_manifest(path)
    rows = ordered(change(manifest))
    columns = (*manifest.scores, *(name for name in scores if name not in manifest.scores))
    place = Path(path) / "manifest.parquet" if Path(path).is_dir() else Path(path)
    write_manifest(place, rows, columns, {**manifest.facts, "plan": plan.model_dump(mode="json")})
    options.tell_kept(sum(not row["reject_reason"] for row in rows), len(rows), place)


@click.command("score")
@_MANIFEST
@options.planned
def score(manifest: Path, **flags: Any) -> None:
    """Compute the plan's scores where they are missing, and reject what lies outside the bounds."""
    from ..components import component
    from ..filtering import again
    from ..stages import score_rows

    plan = options.plan_of(flags)
    if not plan.scorers:
        raise VaderError("the plan has no scores: choose a --preset that has, or add one with --scorer")
    made = {
        name: (component("scorer", scorer.scorer).make(scorer.options), scorer)
        for name, scorer in plan.scorers.items()
    }

    def change(found: Manifest) -> list[Row]:
        # a clip that an earlier bound rejected, and this one does not, needs the scores it was spared
        scored = score_rows(again(found.rows, {}), made, found.folder)
        return again(scored, plan.scorers)

    _changed(manifest, plan, change, plan.columns())


@click.command("filter")
@_MANIFEST
@options.planned
def filter_(manifest: Path, **flags: Any) -> None:
    """Apply other bounds to scores that are there; earlier rejections by a score are forgotten."""
    from ..filtering import again

    plan = options.plan_of(flags)

    def change(found: Manifest) -> list[Row]:
        bounds = {name: scorer for name, scorer in plan.scorers.items() if name in found.scores}
        absent = sorted(set(plan.columns()) - set(bounds))
        if absent:
            raise VaderError(
                f"the manifest has no score {absent[0]!r} (scores: {', '.join(found.scores) or 'none'}): "
                f"compute it with `vader data score`, or leave it out with -o scorers.{absent[0]}=none"
            )
        return again(found.rows, bounds)

    _changed(manifest, plan, change)


@click.command("caption")
@_MANIFEST
@options.planned
def caption(manifest: Path, **flags: Any) -> None:
    """Caption the clips that are left and have no text; with images.middle_frame, their middle frames too."""
    from ..components import component
    from ..stages import caption_rows, image_rows

    plan = options.plan_of(flags)
    if plan.captions.name == "none":
        raise VaderError("no captioner was named: give --captions openai, transformers or another plugin's")
    captioner = component("captioner", plan.captions.name).make(plan.captions.options)

    def change(found: Manifest) -> list[Row]:
        rows = image_rows(found.rows, found.folder) if plan.images.middle_frame else found.rows
        return caption_rows(rows, captioner, plan.captions, found.folder)

    _changed(manifest, plan, change)


@click.command("dedup")
@_MANIFEST
@options.planned
def dedup(manifest: Path, **flags: Any) -> None:
    """Reject clips that are the same as another: by perceptual hash, then by embedding."""
    from ..components import component
    from ..duplicates import dedup as without_duplicates
    from ..stages import fingerprint_rows

    plan = options.plan_of(flags)
    named = plan.duplicates.embedder
    embedder = None if named == "none" else component("embedder", named).make(plan.duplicates.options)

    def change(found: Manifest) -> list[Row]:
        rows = fingerprint_rows(found.rows, embedder, found.folder)
        return without_duplicates(rows, plan.duplicates)

    _changed(manifest, plan, change)


@click.command("export")
@_MANIFEST
@click.option(
    "--format",
    "formats",
    multiple=True,
    required=True,
    type=click.Choice(["opensora_csv", "easyanimate_json", "webdataset"]),
    help="What to write beside the manifest (repeat).",
)
def export(manifest: Path, formats: tuple[str, ...]) -> None:
    """Write the kept clips for a trainer."""
    from ..exports import write_exports
    from ..manifest import read_manifest

    found = read_manifest(manifest)
    for path in write_exports(found.folder, found.rows, formats):
        click.echo(str(path))


@click.command("report")
@_MANIFEST
def report(manifest: Path) -> None:
    """Write the page that shows what was kept, and why the rest was not."""
    from ..report import write_report

    click.echo(str(write_report(manifest)))
