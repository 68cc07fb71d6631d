"""Flags that several commands share, and the plan that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from vader_core.errors import VaderError
from vader_core.paths import entered

from ..plan import Plan
from ..planning import make_plan, presets

_LISTED = ", ".join(presets())

preset = click.option(
    "--preset", default="plain", show_default=True, metavar="NAME", help=f"{_LISTED}, or a YAML file."
)
as_upstream = click.option(
    "--as-upstream", is_flag=True, help="Switch on what the preset's origin does by mistake."
)
options = click.option(
    "-o",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any option of the plan, e.g. cut.max_seconds=8.",
)
captions = click.option(
    "--captions", metavar="NAME", help="Captioner: openai, transformers, none, or another plugin's."
)
scorers = click.option(
    "--scorer",
    "scorers",
    multiple=True,
    metavar="COLUMN=NAME[:MIN..MAX]",
    help="Add a score, e.g. motion=farneback:0.5..8 or aes=reward:5.. (repeat).",
)


def planned(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags that make a plan."""
    for flag in (options, scorers, captions, as_upstream, preset):
        function = flag(function)
    return function


def plan_of(flags: dict[str, Any]) -> Plan:
    """The plan that the flags of :func:`planned` make; they are taken out of ``flags``."""
    changes = list(_scorer_options(flags.pop("scorers")))
    if flags.get("captions") is not None:
        changes.append(f"captions.name={flags['captions']}")
    del flags["captions"]
    return make_plan(
        flags.pop("preset"), as_upstream=flags.pop("as_upstream"), options=(*changes, *flags.pop("options"))
    )


def _scorer_options(given: Sequence[str]) -> list[str]:
    found = []
    for text in given:
        column, equals, rest = text.partition("=")
        name, _, bounds = rest.partition(":")
        if not equals or not column or not name:
            raise VaderError(f"--scorer {text!r}: write COLUMN=NAME or COLUMN=NAME:MIN..MAX")
        found.append(f"scorers.{column}.scorer={name}")
        if bounds:
            low, dots, high = bounds.partition("..")
            if not dots:
                raise VaderError(f"--scorer {text!r}: write the bounds as MIN..MAX; either may be left out")
            found += [f"scorers.{column}.min={low or 'none'}", f"scorers.{column}.max={high or 'none'}"]
    return found


def ready(out: Path, overwrite: bool) -> Path:
    """The folder to write to; with ``overwrite`` what an earlier run left in it is removed.

    Raises:
        VaderError: It holds something that no run of ours wrote.
    """
    import shutil

    out = entered(out)
    if not out.exists():
        return out
    ours = {"plan.yaml", "sources.json", "log.jsonl", "manifest.parquet", "report.html", "shards", "clips"}
    ours |= {"opensora.csv", "easyanimate.json", "webdataset"}
    foreign = sorted(
        path.name for path in out.iterdir() if path.name not in ours and not path.name.startswith(".")
    )
    begun = (out / "plan.yaml").is_file() or (out / "manifest.parquet").is_file()
    if foreign and not begun:
        raise VaderError(f"{out} holds {foreign[0]!r}, which no run wrote; choose an empty --out")
    if overwrite:
        for name in ours:
            place = out / name
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
    return out


def tell_kept(kept: int, total: int, place: Path) -> None:
    """One line: what is kept, and where it lies."""
    click.echo(f"{kept} of {total} clips kept: {place}")
