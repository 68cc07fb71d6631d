"""Prompts from a file: a text file, a table or JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from vader_core.builtin.prompts.listed import ListedPrompts
from vader_core.builtin.prompts.options import OwnPromptOptions
from vader_core.errors import VaderError
from vader_core.paths import entered
from vader_core.pictures import read_picture
from vader_core.prompts import Prompt

_TEXT = ("text", "prompt")
_OWN = (*_TEXT, "negative", "image")

_AS_UTF8 = "save the file as UTF-8"
#: First bytes of text that is not UTF-8; the longer first.
_OTHER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

Row = tuple[int, Mapping[str, Any]]


class FileOptions(OwnPromptOptions):
    """Options of ``file``."""

    path: Path = Field(
        description=".txt: a prompt a line; .csv: columns text or prompt, negative, image and any metadata; "
        ".jsonl: objects with those keys"
    )


def make_file(config: Any, *, device: object, dtype: object) -> ListedPrompts:
    """The source ``file``."""
    return ListedPrompts(read_prompts(config.path, config.negative), config.held_out, name="file")


def read_prompts(path: Path, negative: str | None = None) -> list[Prompt]:
    """The prompts of a file, in order.

    Args:
        path: A ``.txt`` (one prompt a line, no blank ones), ``.csv`` (with a header) or ``.jsonl`` file.
            Columns or keys are ``text`` or ``prompt``, ``negative`` and ``image`` (relative to the file); any
            other is metadata.
        negative: For prompts without one of their own.

    Raises:
        VaderError: Naming the file and the line.
    """
    path = entered(path)
    readers = {".txt": _lines, ".csv": _table, ".jsonl": _objects}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise VaderError(
            f"{path}: prompts are read from {', '.join(readers)} files, not from {path.suffix!r}"
        )
    prompts = [_prompt(path, line, row, negative) for line, row in reader(path, _content(path))]
    if not prompts:
        raise VaderError(f"{path}: there are no prompts in this file; write at least one")
    return prompts


def _content(path: Path) -> str:
    if path.exists() and not path.is_file():  # a pipe or a device would be waited for without end
        raise VaderError(f"{path}: the prompt file is no regular file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VaderError(f"{path}: the prompt file cannot be read: {error.strerror or error}") from error
    for marks, name in _OTHER_MARKS.items():
        if data.startswith(marks):
            raise VaderError(f"{path}, line 1: this is {name} text (as PowerShell's `>` writes); {_AS_UTF8}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise VaderError(f"{path}, line {line}: this is not UTF-8 text; {_AS_UTF8}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise VaderError(f"{path}, line {line}: there is a zero byte (UTF-16 text, perhaps); {_AS_UTF8}")
    return text


def _split(content: str) -> list[str]:
    """The lines: only what ends a line ends one, not the further separators that Unicode knows."""
    return content.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _lines(path: Path, content: str) -> Iterator[Row]:
    for number, line in enumerate(_split(content), start=1):
        if line.strip():
            yield number, {"text": line}


def _table(path: Path, content: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            mark = _separator(cells)
            if mark and not header:
                if mark != ",":
                    raise VaderError(
                        f"{path}, line {reader.line_num}: `sep={mark}` says that {mark!r} separates the "
                        "columns; save the table with commas and leave this line out"
                    )
                continue
            if not header:
                header = _header(path, reader.line_num, cells)
                continue
            if len(cells) > len(header):
                raise VaderError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, but the header names {len(header)} "
                    'columns; put text that holds a comma in "quotes"'
                )
            row = dict(zip(header, cells, strict=False))
            yield reader.line_num, {name: cell for name, cell in row.items() if cell.strip()}
    except csv.Error as error:
        raise VaderError(f"{path}, line {reader.line_num}: not a CSV line: {error}") from error


def _separator(cells: list[str]) -> str:
    """What a spreadsheet's first line ``sep=;`` names; empty where it is no such line.

    >>> _separator(["sep=;"]), _separator(["sep=", ""]), _separator(["prompt"])
    (';', ',', '')
    """
    line = ",".join(cells)
    return line[4:] if line.startswith("sep=") and len(line) == 5 else ""


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    names = [name.lower() if name.lower() in _OWN else name for name in names]
    for mark, words in ((";", "semicolons"), ("\t", "tabs")):
        parts = [part.strip().strip('"').lower() for part in ",".join(cells).split(mark)]
        if len(parts) > 1 and set(parts) & {*_TEXT, "image"} and not set(names) & {*_TEXT, "image"}:
            raise VaderError(
                f"{path}, line {line}: the columns are separated by {words}; save the table with commas "
                "(a .csv of some spreadsheets' languages has none)"
            )
    if len(set(names)) != len(names):
        raise VaderError(f"{path}, line {line}: two columns have the same name: {', '.join(names)}")
    if not set(names) & {*_TEXT, "image"}:
        raise VaderError(
            f"{path}, line {line}: the first line must name the columns, one of them `text` or `prompt`; "
            f"it names {', '.join(names)}"
        )
    return names


class _TwiceError(Exception):
    """A name of an object, given twice: JSON's readers differ in which value they take."""


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(repr(name) for name in names if names.count(name) > 1))
    return found


def _objects(path: Path, content: str) -> Iterator[Row]:
    for number, line in enumerate(_split(content), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_named_once)
        except json.JSONDecodeError as error:
            raise VaderError(f"{path}, line {number}: not JSON: {error.msg}") from error
        except _TwiceError as error:
            raise VaderError(f"{path}, line {number}: {error} is given twice; keep one") from error
        except (RecursionError, ValueError) as error:  # a number of more digits than Python reads
            reason = "nested too deep" if isinstance(error, RecursionError) else "a number is too long"
            raise VaderError(f"{path}, line {number}: not a prompt: {reason}") from error
        if not isinstance(row, dict):
            raise VaderError(f'{path}, line {number}: write an object, such as {{"text": "…"}}, a line')
        yield number, row


def _prompt(path: Path, line: int, row: Mapping[str, Any], negative: str | None) -> Prompt:
    where = f"{path}, line {line}"
    own: dict[str, str] = {}
    for name in _OWN:
        value = row.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise VaderError(f"{where}: `{name}` must be text, not {value!r}")
        own[name] = value.strip()
    _refuse_halves(where, row)
    if len([name for name in _TEXT if name in own]) > 1:
        raise VaderError(f"{where}: both `text` and `prompt` are given; keep one")
    text = own.get("text", own.get("prompt", ""))
    image = _image(path, where, own.get("image", ""))
    if not text and image is None:
        raise VaderError(f"{where}: there is neither a `text` (or `prompt`) nor an `image`")
    metadata = {name: value for name, value in row.items() if name not in _OWN}
    return Prompt(text, own.get("negative", negative), image, metadata)


def _refuse_halves(where: str, row: Mapping[str, Any]) -> None:
    """Half a surrogate pair is no character: no tokenizer takes it and no file can hold it."""
    waiting: list[Any] = [*row.keys(), *row.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise VaderError(
                f"{where}: there is half a surrogate pair (\\ud800 to \\udfff), as a cut emoji leaves it: "
                "mend the text"
            )
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value


def _image(path: Path, where: str, name: str) -> Path | None:
    if not name:
        return None
    try:
        image = entered(path.parent / entered(name))
    except VaderError as error:
        raise VaderError(f"{where}: {error}") from error
    if not image.is_file():
        raise VaderError(
            f"{where}: the image {name} does not exist; relative names start from {path.parent or Path()}"
        )
    try:
        read_picture(image)
    except VaderError as error:
        raise VaderError(f"{where}: {error}") from error
    return image
