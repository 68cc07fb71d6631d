"""Every failure that a person can cause, as one message: what was wrong, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from traceback import extract_tb


class VaderError(Exception):
    """A mistake in what was asked for. The command line prints the message alone and exits with 2."""

    exit_code = 2


class MachineError(VaderError):
    """A failure of the machine (memory, disk, a device). The command line exits with 1."""

    exit_code = 1


class DivergedError(VaderError):
    """A training whose numbers are not finite any more. The command line exits with 1."""

    exit_code = 1


class MissingDependencyError(VaderError):
    """An optional package is not installed.

    Args:
        package: What could not be imported, e.g. ``open_clip``.
        needed_for: What asked for it, e.g. ``reward 'hps'``.
        install: The line that brings it, e.g. ``pip install open_clip_torch``.
    """

    def __init__(self, package: str, needed_for: str, install: str) -> None:
        super().__init__(f"{needed_for} needs the package {package!r}, which is not installed: {install}")


def near(name: str, names: Iterable[str]) -> list[str]:
    """The at most three of ``names`` that look like ``name``, best first.

    >>> near("opensroa", ["opensora", "demo"])
    ['opensora']
    """
    return difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` where a near name exists, else an empty string.

    >>> did_you_mean("pickscore", ["pick_score", "hps"])
    "; did you mean 'pick_score'?"
    """
    close = near(name, names)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, names: Iterable[str]) -> VaderError:
    """The error for a ``name`` that is none of ``names``: lists them, the near one first."""
    known = sorted(set(names))
    listed = ", ".join(known) if known else "none"
    return VaderError(f"unknown {kind} {name!r}{did_you_mean(name, known)} (known: {listed})")


def line_in(error: BaseException, file: Path) -> str:
    """``name.py, line 18``: the last line of ``file``, or else of its folder, that ``error`` came through.

    Empty where it came through none of them.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = extract_tb(error.__traceback__)
    places = [(Path(frame.filename), frame.lineno) for frame in frames]
    own = [place for place in places if place[0] == file] or [
        place for place in places if place[0].is_relative_to(file.parent)
    ]
    return f"{own[-1][0].name}, line {own[-1][1]}" if own else ""
