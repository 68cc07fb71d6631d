"""Where the recipes of the installed plugins lie: found without importing a plugin, or reading a file."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from vader_core.first_party import FIRST_PARTY

if TYPE_CHECKING:
    from vader_core.registry import Registry


def recipe_files(registry: Registry) -> dict[str, list[Path]]:
    """Every installed recipe by name, unread; several files where several packages have it, ours first."""
    found: dict[str, list[Path]] = {}
    packages = registry.recipe_packages()
    for package in sorted(packages, key=lambda name: (not is_ours(name), name)):
        for file in _files(package):
            found.setdefault(file.stem, []).append(file)
    return found


def _files(package: str) -> list[Path]:
    """The recipe files of a package; a stranger's package may be anything."""
    try:
        top, *inner = package.split(".")  # the package itself alone is looked up: no code of it runs
        spec = util.find_spec(top)
        places = [Path(place, *inner) for place in (spec.submodule_search_locations if spec else None) or ()]
        return sorted(
            file for place in places for file in (place / "recipes").glob("*.yaml") if file.is_file()
        )
    except Exception:  # the plugin border: finders and folders that somebody else made
        return []


def is_ours(package: str) -> bool:
    """Whether it is a package of this repository."""
    return package.replace("_", "-") in FIRST_PARTY
