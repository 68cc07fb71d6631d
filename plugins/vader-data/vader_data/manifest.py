"""The manifest: one row per clip in a Parquet table, the rejected ones with their reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_core.paths import entered

Row = dict[str, Any]

#: Every manifest's columns but the scores. ``path`` is relative to the manifest's folder, ``source``
#: absolute; ``start_frame`` and ``end_frame`` are frames of the source, the end not included; ``start`` and
#: ``end`` seconds.
COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "type": pa.string(),
    "path": pa.string(),
    "source": pa.string(),
    "start_frame": pa.int64(),
    "end_frame": pa.int64(),
    "start": pa.float64(),
    "end": pa.float64(),
    "num_frames": pa.int64(),
    "fps": pa.float64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "duration": pa.float64(),
    "text": pa.string(),
    "answer": pa.string(),
    "phash": pa.string(),
    "embedding": pa.list_(pa.float32()),
    "duplicate_of": pa.string(),
    "reject_stage": pa.string(),
    "reject_reason": pa.string(),
}

_SCORES = b"vader_data.scores"
_FACTS = b"vader_data.facts"


@dataclass
class Manifest:
    """A table in memory.

    Args:
        rows: In the table's order.
        scores: Names of the score columns, in order.
        folder: What ``path`` is relative to.
        facts: Anything else that belongs to the table, JSON values by name.
    """

    rows: list[Row]
    scores: tuple[str, ...] = ()
    folder: Path = field(default_factory=Path)
    facts: dict[str, Any] = field(default_factory=dict)

    def kept(self) -> list[Row]:
        """Rows without a ``reject_reason``."""
        return [row for row in self.rows if not row["reject_reason"]]


def new_row(**values: Any) -> Row:
    """A row with every column, what is not given ``None``.

    Raises:
        KeyError: No such column.
    """
    unknown = values.keys() - COLUMNS.keys()
    if unknown:
        raise KeyError(f"no such column: {sorted(unknown)}")
    return {**dict.fromkeys(COLUMNS), **values}


def rejected(row: Row, stage: str, why: str) -> Row:
    """The row with ``reject_stage`` and ``reject_reason``; a first reason stays."""
    if row["reject_reason"]:
        return row
    return {**row, "reject_stage": stage, "reject_reason": why}


def finite(value: float | None) -> float | None:
    """``None`` in place of a number that is not finite: a table holds no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)


def schema(scores: Sequence[str]) -> pa.Schema:
    """The table's columns, the scores before the text.

    Raises:
        VaderError: A score has the name of another column.
    """
    clash = sorted(set(scores) & COLUMNS.keys())
    if clash:
        raise VaderError(f"score {clash[0]!r} has the name of another column; choose a different name")
    names = list(COLUMNS)
    place = names.index("text")
    fields = [(name, COLUMNS[name]) for name in names[:place]]
    fields += [(name, pa.float64()) for name in scores]
    fields += [(name, COLUMNS[name]) for name in names[place:]]
    return pa.schema(fields)


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Rows in the manifest's order: by source, then span, a clip before its image."""
    return sorted(rows, key=lambda row: (row["source"], row["start_frame"], row["end_frame"], row["id"]))


def write_manifest(
    path: Path, rows: Sequence[Row], scores: Sequence[str] = (), facts: Mapping[str, Any] | None = None
) -> None:
    """Write a table beside ``path`` and rename it into place.

    Raises:
        VaderError: A score column clashes with another.
        MachineError: The disk is full or cannot be written.
    """
    wanted = schema(scores)
    columns = {name: [row.get(name) for row in rows] for name in wanted.names}
    table = pa.table(columns, schema=wanted)
    table = table.replace_schema_metadata(
        {_SCORES: json.dumps(list(scores)).encode(), _FACTS: json.dumps(dict(facts or {})).encode()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        pq.write_table(table, beside)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest, or the ``manifest.parquet`` of a folder.

    Raises:
        VaderError: Nothing there, or not a manifest.
    """
    path = entered(path)
    if path.is_dir():
        path = path / "manifest.parquet"
    if not path.is_file():
        raise VaderError(f"{path}: no such manifest; `vader data cut` and `vader data run` write one")
    try:
        # one file, not a data set: a folder named `type=video` must not add a column
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise VaderError(f"{path} is not a readable Parquet file: {error}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise VaderError(
            f"{path} is not a manifest: the column {missing[0]!r} is missing; `vader data cut` makes one"
        )
    metadata = table.schema.metadata or {}
    try:
        scores = tuple(map(str, json.loads(metadata.get(_SCORES, b"[]"))))
        facts = dict(json.loads(metadata.get(_FACTS, b"{}")))
        wanted = schema(scores)
        rows = table.select(wanted.names).cast(wanted).to_pylist()
    except (pa.ArrowException, ValueError, TypeError, KeyError, RecursionError, VaderError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise VaderError(f"{path} is not a manifest that a run wrote: {first}") from error
    for number, row in enumerate(rows, 1):
        wrong = _wrong_in(row)
        if wrong:
            raise VaderError(f"{path} is not a manifest that a run wrote: row {number}: {wrong}")
    return Manifest(rows, scores, path.parent, facts)


def _wrong_in(row: Row) -> str:
    """What no run writes; empty where there is nothing. A table may come from somebody else."""
    missing = [name for name in ("id", "type", "source") if row[name] is None]
    if missing:
        return f"it has no {missing[0]}"
    if row["reject_reason"] and row["reject_stage"] is None:
        return "it has a reject_reason and no reject_stage"
    if row["path"] and (Path(row["path"]).is_absolute() or ".." in Path(row["path"]).parts):
        return f"path {row['path']!r} leads out of the manifest's folder"
    return ""


def reasons(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """Stage, reason and count of the rejected rows, in the order of the first of each."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["reject_reason"]:
            why = row["reject_reason"] if not row["duplicate_of"] else "the same as another clip"
            key = (row["reject_stage"], why)
            counts[key] = counts.get(key, 0) + 1
    return [(stage, why, count) for (stage, why), count in counts.items()]
