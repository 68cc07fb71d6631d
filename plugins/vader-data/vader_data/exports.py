"""The table in the formats that trainers read: Open-Sora's CSV, EasyAnimate's JSON, webdataset."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.files import replacing

from .manifest import COLUMNS, Row

#: Open-Sora's facts of a file, in its order.
INFO = ("num_frames", "height", "width", "aspect_ratio", "fps", "resolution")

#: Files per tar of a webdataset.
_PER_TAR = 1000


def opensora_records(rows: Iterable[Row], scores: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Open-Sora's columns: the path, the file's facts, the scores, the text.

    A clip that was left as a span has ``start`` and ``end`` in seconds; the facts of its file stay empty,
    because a trainer would take the span's for the whole film's.
    """
    for row in rows:
        facts: dict[str, Any] = dict.fromkeys(INFO)
        if row["path"]:
            facts = {
                "num_frames": row["num_frames"],
                "height": row["height"],
                "width": row["width"],
                "aspect_ratio": row["height"] / row["width"],
                "fps": row["fps"],
                "resolution": row["height"] * row["width"],
            }
        record = {"path": row["path"] or row["source"], **facts}
        if not row["path"]:
            record |= {"start": row["start"], "end": row["end"]}
        record |= {name: row.get(name) for name in scores}
        yield {**record, "text": row["text"]}


def easyanimate_records(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """EasyAnimate's three fields, and ``start`` and ``end`` where a clip was left as a span."""
    for row in rows:
        record = {"file_path": row["path"] or row["source"], "text": row["text"] or "", "type": row["type"]}
        if not row["path"]:
            record |= {"start": row["start"], "end": row["end"]}
        yield record


def csv_text(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """CSV as pandas writes it: minimal quotes, bare line feeds, nothing for ``None``, shortest floats."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        cells = (record.get(column) for column in columns)
        writer.writerow(["" if cell is None else cell for cell in cells])
    return buffer.getvalue()


def json_text(records: Sequence[Mapping[str, Any]]) -> str:
    """A JSON list as EasyAnimate writes its own: two spaces, text as it is."""
    return json.dumps(list(records), indent=2, ensure_ascii=False)


def _opensora_csv(folder: Path, rows: list[Row]) -> Path:
    scores = score_columns(rows)
    records = list(opensora_records(rows, scores))
    spans = ["start", "end"] if any("start" in record for record in records) else []
    path = folder / "opensora.csv"
    _write(path, csv_text(records, ["path", *INFO, *spans, *scores, "text"]))
    return path


def _easyanimate_json(folder: Path, rows: list[Row]) -> Path:
    path = folder / "easyanimate.json"
    _write(path, json_text(list(easyanimate_records(rows))))
    return path


def score_columns(rows: Sequence[Row]) -> list[str]:
    """The scores among the columns of a table's rows."""
    return [name for name in (rows[0] if rows else {}) if name not in COLUMNS]


def _webdataset(folder: Path, rows: list[Row]) -> Path:
    target = folder / "webdataset"
    target.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if not row["path"]:
            raise VaderError(
                "webdataset holds files, but the clips were left as spans of their films: cut with "
                "-o cut.write=files"
            )
    for count, begin in enumerate(range(0, len(rows), _PER_TAR)):
        with (
            replacing(target / f"clips-{count:05d}.tar") as beside,
            tarfile.open(beside, "w") as tar,
        ):
            for place, row in enumerate(rows[begin : begin + _PER_TAR], start=begin):
                _add(tar, folder, f"{place:08d}", row)
    return target


def _add(tar: tarfile.TarFile, folder: Path, key: str, row: Row) -> None:
    file = folder / row["path"]
    facts = {name: value for name, value in row.items() if name not in ("embedding", "path")}
    members = {
        file.suffix: file.read_bytes(),
        ".txt": (row["text"] or "").encode(),
        ".json": json.dumps(facts, ensure_ascii=False).encode(),
    }
    for suffix, data in members.items():
        member = tarfile.TarInfo(f"{key}{suffix}")  # no owner, no time: the same clips give the same tar
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


#: Name of a format: writes rows into a folder and says what it wrote.
FORMATS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "opensora_csv": _opensora_csv,
    "easyanimate_json": _easyanimate_json,
    "webdataset": _webdataset,
}


def write_exports(folder: Path, rows: Sequence[Row], formats: Sequence[str]) -> list[Path]:
    """Write the kept rows in each format.

    Args:
        folder: The manifest's; paths in the exports are relative to it.
        rows: Rejected ones are left out.
        formats: Of :data:`FORMATS`.

    Returns:
        What was written.
    """
    kept = [row for row in rows if not row["reject_reason"]]
    return [FORMATS[name](folder, kept) for name in formats]


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
