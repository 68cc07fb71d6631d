"""Where the golden files lie: beside these tests, and wherever VADER_GOLDENS says."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


def golden_roots(plugin: str) -> list[Path]:
    """Folders that may hold a plugin's goldens, the committed one first."""
    elsewhere = os.environ.get("VADER_GOLDENS", str(REPOSITORY.parent / "shared" / "goldens"))
    return [root for root in (HERE / "goldens" / plugin, Path(elsewhere) / plugin) if root.is_dir()]


def golden_paths(plugin: str, pattern: str) -> list[Path]:
    """Files and folders that match ``pattern`` under every root, each relative path once, sorted."""
    found: dict[str, Path] = {}
    for root in golden_roots(plugin):
        for path in root.glob(pattern):
            found.setdefault(str(path.relative_to(root)), path)
    return [found[name] for name in sorted(found)]
