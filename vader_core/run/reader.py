"""A run directory's files, read as data of unknown origin: each checked for place, form and type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.printable import printable

#: No figure of a run lies beyond float32; more would overflow what is computed from it.
LARGEST = 3.4e38
#: Steps, queries and seeds lie below this.
MOST = 10**15
#: At most so many things left out of one file are named one by one.
MOST_NAMED = 12
#: What was left out is said in at most so many characters: the names in it may be of any length.
_LONGEST = 200

#: What PyYAML's safe loader raises on malformed scalars, beside its own errors.
_MALFORMED = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)


class Reader:
    """Reads one run directory and keeps a list of what it left out.

    A whole file of the wrong form is an error. A wrong value inside it is left out and named; ``None`` counts
    as absent and is not named.

    Args:
        folder: The run directory.

    Raises:
        VaderError: The directory cannot be reached.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._root = folder.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise VaderError(f"cannot read {folder}: {error}") from error
        self._left_out: dict[str, dict[str, None]] = {}  # each thing once, in order

    # -- what was left out -------------------------------------------------------------------------------

    def leave_out(self, file: str, what: str) -> None:
        """Note that something is left out.

        Args:
            file: Its path within the run directory.
            what: Which part, and why.
        """
        self._left_out.setdefault(file, {})[what] = None

    def omissions(self) -> list[str]:
        """What was left out so far, one sentence each, file by file."""
        found = []
        for file, things in self._left_out.items():
            found += [f"{printable(file)}: {_short(printable(thing))}" for thing in list(things)[:MOST_NAMED]]
            if len(things) > MOST_NAMED:
                found.append(f"{printable(file)}: {len(things) - MOST_NAMED:,} more")
        return found

    # -- files -------------------------------------------------------------------------------------------

    def find(self, name: str, *, expected: bool = False) -> Path | None:
        """The file ``name`` of the run, or ``None`` where it is missing or leads out of the run directory.

        Args:
            name: Its path within the run directory.
            expected: Name it where it is missing.

        Raises:
            VaderError: It cannot be reached.
        """
        path = self.folder / name
        try:
            inside = path.resolve().is_relative_to(self._root)
            if inside and path.is_file():
                return path
        except OSError as error:
            raise VaderError(f"cannot read {path}: {error.strerror}") from error
        except RuntimeError:  # links in a circle
            inside = False
        if not inside:
            self.leave_out(name, "is a link out of the run directory")
        elif expected:
            self.leave_out(name, "is missing")
        return None

    def text(self, path: Path) -> str:
        """A file's text.

        Raises:
            VaderError: It cannot be read, or is not UTF-8.
        """
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise VaderError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise VaderError(f"{path} is not UTF-8 text, as every file of a run is") from error

    def json(self, path: Path) -> Any:
        """A file's JSON value.

        Raises:
            VaderError: Not JSON, or nested deeper than anything that a run writes.
        """
        try:
            return json.loads(self.text(path))
        except ValueError as error:
            raise VaderError(
                f"{path} is not JSON: {error}; repair or remove it, then write the page again"
            ) from error
        except RecursionError as error:
            raise VaderError(
                f"{path} is nested too deep; repair or remove it, then write the page again"
            ) from error

    def json_object(self, name: str) -> dict[str, Any]:
        """The JSON object in the file ``name``; empty where there is no such file.

        Raises:
            VaderError: Not a JSON object.
        """
        path = self.find(name)
        found = {} if path is None else self.json(path)
        if not isinstance(found, dict):
            raise VaderError(f"{path} must hold a JSON object, not {_kind(found)}")
        return found

    def json_lines(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """Every JSON object of a file with one per line, each with a word for its place.

        The last line may be torn (its process was killed while it wrote) and is then left out without a word.
        """
        path = self.find(name)
        lines = [] if path is None else self.text(path).split("\n")
        found = []
        for count, line in enumerate(lines, 1):
            where = f"line {count}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                if line.strip() and count < len(lines):
                    self.leave_out(name, f"{where} is not JSON")
                continue
            if isinstance(value, dict):
                found.append((where, value))
            else:
                self.leave_out(name, f"{where} must hold a JSON object, not {_kind(value)}")
        return found

    def yaml_mapping(self, path: Path, text: str) -> dict[Any, Any]:
        """The mapping that ``text``, read from ``path``, holds; empty where it holds nothing.

        Raises:
            VaderError: Not YAML, or not a mapping.
        """
        import yaml

        try:
            tree = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise VaderError(f"{path} is not YAML{line}: {printable(str(error.problem))}") from error
        except (yaml.YAMLError, *_MALFORMED) as error:
            raise VaderError(f"{path} is not YAML that a run writes: {type(error).__name__}") from error
        if not isinstance(tree, dict | None):
            raise VaderError(f"{path} must hold a mapping, not {_kind(tree)}")
        return tree or {}

    # -- values ------------------------------------------------------------------------------------------

    def word(self, value: Any, file: str, where: str) -> str | None:
        """A single value as text."""
        if value is None:
            return None
        found = _word(value)
        if found is None:
            self._wrong(file, where, "text", value)
        return found

    def words(self, value: Any, file: str, where: str) -> str | None:
        """A single value, a list of them or a mapping of them, as text.

        Lists are joined by spaces, mappings read ``name value, name value``.
        """
        if isinstance(value, Mapping):
            pairs = [(_word(name), _word(item)) for name, item in value.items()]
            if all(item is not None for _, item in pairs):
                return ", ".join(f"{name} {item}" for name, item in pairs)
        elif isinstance(value, list):
            items = [_word(item) for item in value]
            if None not in items:
                return " ".join(item for item in items if item is not None)
        else:
            return self.word(value, file, where)
        self._wrong(file, where, "flat", value)
        return None

    def whole(self, value: Any, file: str, where: str) -> int | None:
        """A whole number from 0 to ``MOST``."""
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST:
            return value
        self._wrong(file, where, "a whole number, 0 or more", value)
        return None

    def number(self, value: Any, file: str, where: str) -> float | None:
        """A number, not a truth value. NaN and infinity are numbers here: a run that diverged writes them."""
        if value is None:
            return None
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if plain and not LARGEST < abs(value) < float("inf"):
            return float(value)
        self._wrong(file, where, "a number that float32 holds", value)
        return None

    def truth(self, value: Any, file: str, where: str) -> bool:
        """True or false; false where there is nothing."""
        if value is not None and not isinstance(value, bool):
            self._wrong(file, where, "true or false", value)
        return value is True

    def mapping(self, value: Any, file: str, where: str) -> dict[str, Any]:
        """A mapping by its names as text; empty where there is none."""
        if isinstance(value, dict):
            return {_word(name) or "": item for name, item in value.items()}
        if value is not None:
            self._wrong(file, where, "a mapping", value)
        return {}

    def numbers(self, value: Any, file: str, where: str) -> dict[str, float]:
        """A mapping of numbers; each that is none is left out alone."""
        found = {
            name: self.number(item, file, f"{where}.{name}")
            for name, item in self.mapping(value, file, where).items()
        }
        return {name: item for name, item in found.items() if item is not None}

    def items(self, value: Any, file: str, where: str) -> list[Any]:
        """A list; empty where there is none."""
        if isinstance(value, list):
            return value
        if value is not None:
            self._wrong(file, where, "a list", value)
        return []

    def _wrong(self, file: str, where: str, wanted: str, value: Any) -> None:
        self.leave_out(file, f"{where} must be {wanted}, not {_kind(value)}")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def _word(value: Any) -> str | None:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, int) and value.bit_length() > 1024:  # Python refuses to write out very long ones
        return None
    return str(value) if isinstance(value, int | float | date | None) else None


def _kind(value: Any) -> str:
    """What a value is, in a word.

    >>> _kind([]), _kind(1.5), _kind({"a": 1}), _kind([[1]])
    ('a list', 'a number', 'a mapping', 'a nested list')
    """
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number" if -MOST <= value <= MOST else "a number out of range"
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        nested = "nested " if any(isinstance(item, dict | list) for item in inner) else ""
        return f"a {nested}{'mapping' if isinstance(value, dict) else 'list'}"
    return {str: "text", type(None): "nothing"}.get(type(value), "a value of another kind")
