"""Curves of runs: a file each while they are made, one file of all of them to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Run = dict[str, Any]


def read(source: Path) -> list[Run]:
    """The runs of a folder, or of a file that :func:`collect` wrote."""
    if source.is_file():
        return list(json.loads(source.read_text(encoding="utf-8"))["runs"])
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(source.glob("run-*.json"))]


def write(path: Path, run: Run) -> None:
    """Put a run's file there in one piece."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(run), encoding="utf-8")
    beside.replace(path)


def collect(sources: Sequence[Path], file: Path, command: str, names: Sequence[str]) -> None:
    """All runs as one file, one line each; of two of the same names the longer.

    Args:
        sources: Folders, or files of this kind.
        file: To be written.
        command: What made them.
        names: Entries that tell runs apart.
    """
    found: dict[tuple[Any, ...], Run] = {}
    for run in (run for source in sources for run in read(source)):
        key = tuple(run[name] for name in names)
        if key not in found or len(run["curve"]) > len(found[key]["curve"]):
            found[key] = run
    lines = ",\n  ".join(json.dumps(found[key]) for key in sorted(found))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{{"command": {json.dumps(command)},\n "runs": [\n  {lines}\n ]}}\n', encoding="utf-8")
