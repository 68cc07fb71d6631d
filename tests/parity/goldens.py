"""Where the stored numbers of the official implementations lie.

Goldens are looked for in ``$VADER_GOLDENS/<plugin>`` (where the variable is unset: ``../shared/goldens/<plugin>`` beside the
repository, if that exists) and in ``tests/parity/goldens/<plugin>``. A file found in both places counts once.
"""

from __future__ import annotations

import os
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_REPOSITORY = _HERE.parent.parent


def golden_roots(plugin: str) -> list[Path]:
    """The existing folders that hold goldens of ``plugin``, the first of them first.

    A folder named by ``$VADER_GOLDENS`` must exist; it comes before the repository's own.
    """
    named = os.environ.get("VADER_GOLDENS")
    if named is not None and not Path(named).is_dir():
        raise FileNotFoundError(f"VADER_GOLDENS={named} is not a folder")
    outside = _REPOSITORY.parent / "shared" / "goldens" if named is None else Path(named)
    candidates = [outside / plugin, _HERE / "goldens" / plugin]
    return [folder.resolve() for folder in dict.fromkeys(candidates) if folder.is_dir()]


def golden_paths(plugin: str, pattern: str) -> list[Path]:
    """Every golden of ``plugin`` whose path below its root matches the glob ``pattern``, by relative path.

    Raises:
        FileNotFoundError: Nothing matches; a test over no goldens would prove nothing.
    """
    roots = golden_roots(plugin)
    found: dict[Path, Path] = {}
    for root in roots:
        for path in root.glob(pattern):
            found.setdefault(path.relative_to(root), path)
    if not found:
        places = ", ".join(map(str, roots)) or f"no folder {plugin!r} under VADER_GOLDENS or {_HERE / 'goldens'}"
        raise FileNotFoundError(f"no golden {pattern!r} for {plugin!r} in {places}")
    return [found[name] for name in sorted(found)]


def golden_companion(plugin: str, case: Path, name: str) -> Path:
    """The file ``name`` that belongs to ``case``: beside it, or else in any root of ``plugin``.

    Raises:
        FileNotFoundError: There is no such file.
    """
    beside = case.parent / name
    return beside if beside.is_file() else golden_paths(plugin, name)[0]


def golden_id(path: Path) -> str:
    """A test id: the file's name and the folder it lies in."""
    return f"{path.parent.name}-{path.stem}"
