"""Tables of clips: CSV, JSONL, JSON, Parquet, or a folder of files with captions beside them.

The columns of Open-Sora (``path``, ``text``, ``num_frames``, ``height``, ``width``, ``fps``) and of
EasyAnimate (``file_path``, ``text``, ``type``, ``width``, ``height``) are read as they are; ``video``,
``start`` and ``end`` (seconds) may stand beside them. A row that cannot be used is kept with the reason,
never lost in silence.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vader_core.archives import TAR, is_file, open_bytes, samples
from vader_core.clips import VIDEOS
from vader_core.errors import MissingDependencyError, VaderError
from vader_core.paths import entered
from vader_core.pictures import PICTURES, is_hidden
from vader_core.prompts import Shape

Kind = Literal["video", "image"]

FORMATS = (".csv", ".jsonl", ".json", ".parquet")
MOVING = (*VIDEOS, ".gif")
#: More is no caption and no sample's facts.
_LONGEST_TEXT = 1 << 20
_PATH = ("video", "path", "file_path")
_TEXT = ("text", "caption", "prompt")


@dataclass(frozen=True)
class Row:
    """One clip or picture of a table.

    Args:
        number: Its place in the table, from 1, as a person counts (without a header).
        path: The file.
        text: What it shows; empty where nobody wrote it.
        kind: ``image`` for a still picture, which is a video of one frame.
        start: Seconds at which the clip begins in the file.
        end: Seconds at which it ends; ``None`` is the file's end.
        shape: What the columns say of the **whole file**; ``None`` where one of frames, height and width is
            missing.
        problem: Why the row cannot be used, found while reading the table.
    """

    number: int
    path: Path
    text: str
    kind: Kind
    start: float = 0.0
    end: float | None = None
    shape: Shape | None = None
    problem: str | None = None


def read_table(path: Path, root: Path | None = None) -> list[Row]:
    """The rows of a table.

    Args:
        path: A ``.csv``, ``.jsonl``, ``.json`` or ``.parquet`` file; or a webdataset: a ``.tar`` archive, or
            a folder of them.
        root: Folder that relative paths start from; left out, the table's own.

    Raises:
        VaderError: No such file, another format, no row, a missing column, or a line that cannot be read.
        MissingDependencyError: A Parquet file without pyarrow.
    """
    path = entered(path)
    if is_webdataset(path):
        return _webdataset(path)
    if not path.is_file():
        raise VaderError(f"table {path}: no such file")
    records = list(_records(path))
    if not records:
        raise VaderError(f"table {path}: it has no rows")
    columns = list(dict.fromkeys(name for record in records for name in record))
    # a batch of `vader sample` lists its clips as `file`; elsewhere that is a word of any meaning
    file_column = _column(path, columns, _PATH) or _column(path, columns, ("file",))
    if file_column is None:
        raise VaderError(
            f"table {path}: no column names the file; use one of {', '.join(_PATH)}, file "
            f"(the table has {', '.join(columns)})"
        )
    text_column = _column(path, columns, _TEXT)
    folder = entered(root or path.parent)
    return [_row(n, record, folder, file_column, text_column) for n, record in enumerate(records, start=1)]


def read_folder(folder: Path) -> list[Row]:
    """The clips and pictures of a folder and the folders in it, by name, each with the ``.txt`` beside it.

    Hidden files and folders are passed over.

    Raises:
        VaderError: No such folder, or neither clip nor picture in it.
    """
    folder = entered(folder)
    if not folder.is_dir():
        raise VaderError(f"videos:{folder}: no such folder")
    files = sorted(
        found
        for found in folder.rglob("*")
        if found.suffix.lower() in (*MOVING, *PICTURES)
        and found.is_file()
        and not is_hidden(found.relative_to(folder))
    )
    if not files:
        raise VaderError(
            f"videos:{folder}: there is neither a clip ({', '.join(MOVING)}) nor a picture "
            f"({', '.join(PICTURES)}) in it"
        )
    return [_finished(Row(n, file, "", _kind_of(file))) for n, file in enumerate(files, start=1)]


def is_webdataset(path: Path) -> bool:
    """Whether it is a tar archive, or a folder of them."""
    return path.suffix == TAR or (path.is_dir() and any(path.glob(f"*{TAR}")))


def _webdataset(path: Path) -> list[Row]:
    """The clips of a webdataset: of each sample its clip or picture, ``.txt``, and what ``.json`` says."""
    archives = sorted(path.glob(f"*{TAR}")) if path.is_dir() else [path]
    rows: list[Row] = []
    for archive in archives:
        for files in samples(archive):
            rows.append(_sample(len(rows) + 1, files))
    if not rows:
        raise VaderError(f"webdataset {path}: it has no samples")
    return rows


def _sample(number: int, files: Mapping[str, Path]) -> Row:
    shown = [place for ending, place in files.items() if ending in (*MOVING, *PICTURES)]
    first = next(iter(files.values()))
    if len(shown) != 1:
        return Row(
            number, first, "", "video", problem=f"{len(shown)} clips and pictures in one sample, not one"
        )
    try:
        record = _facts(files)
        kind = _kind("", shown[0])
        shape = _shape(record, kind)
        text = _member_text(files[".txt"]) if ".txt" in files else ""
    except VaderError as error:
        return Row(number, shown[0], "", "video", problem=str(error))
    named = next((_cell(record[name]) for name in _TEXT if _cell(record.get(name))), "")
    return _finished(Row(number, shown[0], text or named, kind, shape=shape))


def _facts(files: Mapping[str, Path]) -> dict[str, Any]:
    if ".json" not in files:
        return {}
    place = files[".json"]
    return _object(place, "it", _parsed(place, "it", _member_text(place)))


def _member_text(place: Path) -> str:
    with open_bytes(place) as stream:
        content = stream.read(_LONGEST_TEXT + 1)
    if len(content) > _LONGEST_TEXT:
        raise VaderError(f"{place}: more than {_LONGEST_TEXT:,} bytes of text")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise VaderError(f"{place}: not text in UTF-8") from error


def _records(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        yield from _csv(path)
    elif suffix == ".jsonl":
        yield from _jsonl(path)
    elif suffix == ".json":
        yield from _json(path)
    elif suffix == ".parquet":
        yield from _parquet(path)
    else:
        raise VaderError(f"table {path}: {suffix!r} is not read; allowed are {', '.join(FORMATS)} and {TAR}")


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            for record in csv.DictReader(lines, strict=True):
                if None in record:
                    raise VaderError(
                        f"table {path}: a row has more cells than the header: {list(record.values())}"
                    )
                yield dict(record)
    except (csv.Error, UnicodeDecodeError) as error:
        raise VaderError(f"table {path}: not a CSV file in UTF-8: {error}") from error


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield _object(path, f"line {number}", _parsed(path, f"line {number}", line))


def _json(path: Path) -> Iterator[dict[str, Any]]:
    parsed = _parsed(path, "the file", _text(path))
    if not isinstance(parsed, list):
        raise VaderError(f"table {path}: a JSON table is a list of objects, not {type(parsed).__name__}")
    for number, entry in enumerate(parsed, start=1):
        yield _object(path, f"entry {number}", entry)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", f"table {path}", "pip install pyarrow") from error
    try:
        yield from parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise VaderError(f"table {path}: not a Parquet file: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VaderError(f"table {path}: not text in UTF-8: {error}") from error


def _parsed(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VaderError(f"table {path}: {where} is not JSON: {error}") from error


def _object(path: Path, where: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise VaderError(f"table {path}: {where} is not an object with named fields: {str(entry)[:60]}")
    return entry


def _column(path: Path, columns: Sequence[str], names: Sequence[str]) -> str | None:
    found = [name for name in names if name in columns]
    if len(found) > 1:
        raise VaderError(f"table {path}: the columns {' and '.join(found)} say the same: keep one of them")
    return found[0] if found else None


def _row(
    number: int, record: Mapping[str, Any], folder: Path, file_column: str, text_column: str | None
) -> Row:
    name = _cell(record.get(file_column))
    text = _cell(record.get(text_column)) if text_column else ""
    if not name:
        return Row(number, folder, text, "video", problem=f"no file in column {file_column}")
    path = folder / entered(name)
    try:
        kind = _kind(_cell(record.get("type")), path)
        start, end = _number(record, "start"), _number(record, "end")
        shape = _shape(record, kind)
    except VaderError as error:
        return Row(number, path, text, "video", problem=str(error))
    return _finished(Row(number, path, text, kind, start or 0.0, end, shape))


def _finished(row: Row) -> Row:
    """The row with its caption from beside the file, and its problem where it has one."""
    text, problem = row.text, row.problem
    try:
        text = text or _caption_beside(row.path)
    except VaderError as error:
        return replace(row, problem=problem or str(error))
    if not is_file(row.path):
        problem = "no such file"
    elif row.start < 0 or (row.end is not None and row.end <= row.start):
        problem = f"start {row.start:g} s and end {row.end} s hold no clip"
    elif not text:
        problem = "no caption"
    return Row(row.number, row.path, text, row.kind, row.start, row.end, row.shape, problem)


def _caption_beside(path: Path) -> str:
    beside = path.with_suffix(".txt")
    try:
        return " ".join(beside.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise VaderError(f"its caption cannot be read: {beside.name} is not text in UTF-8") from error
    except OSError as error:
        raise VaderError(f"its caption cannot be read: {beside.name}: {error.strerror or error}") from error


def _kind_of(path: Path) -> Kind:
    return "image" if path.suffix.lower() in PICTURES else "video"


def _kind(said: str, path: Path) -> Kind:
    suffix = path.suffix.lower()
    if suffix not in (*MOVING, *PICTURES):
        raise VaderError(f"{suffix or 'a file without a suffix'} is neither clip nor picture")
    if said and said not in ("video", "image"):
        raise VaderError(f"type {said!r} is neither video nor image")
    if said and said != _kind_of(path):
        raise VaderError(f"type says {said}, but the file is a {_kind_of(path)}")
    return _kind_of(path)


def _shape(record: Mapping[str, Any], kind: Kind) -> Shape | None:
    height, width = _number(record, "height"), _number(record, "width")
    frames = 1.0 if kind == "image" else _number(record, "num_frames")
    if height is None or width is None or frames is None:
        return None
    if min(height, width, frames) < 1:
        raise VaderError(f"a size of {frames:g} x {height:g} x {width:g} is empty")
    return Shape(int(frames), int(height), int(width), _number(record, "fps") or None)


def _number(record: Mapping[str, Any], name: str) -> float | None:
    cell = _cell(record.get(name))
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise VaderError(f"{name} {cell!r} is not a number")
    return value


def _cell(value: Any) -> str:
    """A cell's text; what tables write for nothing (an empty cell, None, NaN) is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value).strip()
    return "" if text.lower() == "nan" else text
