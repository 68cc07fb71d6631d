"""``vader data scan``."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vader_core.cli.help import GroupedCommand
from vader_core.data.examine import Examined, examine
from vader_core.data.summary import Dropped, listed
from vader_core.data.tables import Row, is_webdataset, read_folder, read_table
from vader_core.errors import MachineError, VaderError
from vader_core.files import replacing

_COLUMNS = ("path", "text", "num_frames", "height", "width", "fps", "start", "end")


@click.command(
    "scan",
    cls=GroupedCommand,
    examples=(
        "vader data scan my_clips --out clips.csv",
        "vader train --backbone demo --data file:clips.csv",
    ),
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the usable rows: .csv, .jsonl, or .json as EasyAnimate lists them.",
)
@click.option(
    "--check", is_flag=True, help="Read every file whole, so that files that were cut off are found."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(source: Path, out: Path | None, check: bool, as_json: bool) -> int:
    """Look at the clips of SOURCE, a folder or a table, without decoding them."""
    rows = read_folder(source) if source.is_dir() and not is_webdataset(source) else read_table(source)
    examined = examine(rows, check=check)
    bad = [
        Dropped(one.row.number, str(one.row.path), one.problem, one.unreadable)
        for one in examined
        if one.problem is not None
    ]
    if out is not None:
        write_table(out, [one for one in examined if one.problem is None])
    facts = facts_of(examined)
    if as_json:
        click.echo(json.dumps({**facts, "bad": [vars(row) for row in bad]}))
        return 0
    click.echo(f"{facts['usable']} of {len(rows)} rows can be used")
    for name in ("size", "frames", "fps"):
        shown = ", ".join(f"{value} ({count})" for value, count in facts[name].items())
        click.echo(f"{name:<8}{shown}")
    for kind in dict.fromkeys(row.kind for row in bad):
        same = [row for row in bad if row.kind == kind]
        click.echo(f"{len(same):>6}  {kind}: {listed(same)}")
    if out is not None:
        click.echo(f"written: {out}")
    return 0


def facts_of(examined: Sequence[Examined]) -> dict[str, Any]:
    """How many rows can be used, and how often each size, length and rate occurs, the most frequent first."""
    counts: dict[str, dict[str, int]] = {"size": {}, "frames": {}, "fps": {}}
    shapes = [one.shape for one in examined if one.shape is not None and one.problem is None]
    for shape in shapes:
        found = {
            "size": f"{shape.height}x{shape.width}",
            "frames": str(shape.frames),
            "fps": "unknown" if shape.fps is None else f"{shape.fps:g}",
        }
        for name, value in found.items():
            counts[name][value] = counts[name].get(value, 0) + 1
    ordered = {
        name: dict(sorted(values.items(), key=lambda pair: -pair[1])) for name, values in counts.items()
    }
    return {"rows": len(examined), "usable": len(shapes), **ordered}


def write_table(path: Path, examined: Sequence[Examined]) -> None:
    """The usable rows as a table that ``--data file:`` reads.

    Files below its folder are named relative to it. ``.csv`` has Open-Sora's columns; ``.json`` is
    EasyAnimate's list with width and height (``metadata_add_width_height.json``), and ``.jsonl`` the same
    line by line.

    Raises:
        VaderError: Another ending.
        MachineError: It cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        writer.writerows(_cells(one, path.parent) for one in examined)
        text = stream.getvalue()
    elif suffix in (".json", ".jsonl"):
        records = [_record(one, path.parent) for one in examined]
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        text = json.dumps(records, indent=1, ensure_ascii=False) if suffix == ".json" else "\n".join(lines)
        text += "\n"
    else:
        raise VaderError(f"--out {path}: {path.suffix!r} is not written; use .csv, .json or .jsonl")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error}") from error


def _cells(one: Examined, folder: Path) -> list[Any]:
    row, shape = one.row, one.shape
    assert shape is not None
    # The columns speak of the whole file; a part of one is looked at again when it is read.
    sizes: list[Any] = [shape.frames, shape.height, shape.width, shape.fps or ""]
    if row.start or row.end is not None:
        sizes = ["", "", "", ""]
    return [_named(row, folder), row.text, *sizes, row.start or "", "" if row.end is None else row.end]


def _record(one: Examined, folder: Path) -> dict[str, Any]:
    """A row under EasyAnimate's names, with what else is known behind them."""
    cells = dict(zip(_COLUMNS, _cells(one, folder), strict=True))
    first = {"file_path": cells.pop("path"), "text": cells.pop("text"), "type": one.row.kind}
    return first | {name: value for name, value in cells.items() if value != ""}


def _named(row: Row, folder: Path) -> str:
    file, base = row.path.resolve(), folder.resolve()
    return os.path.relpath(file, base) if file.is_relative_to(base) else str(file)
