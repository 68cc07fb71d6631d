"""Recipes: published settings that plugins ship as files, found without importing a plugin."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import yaml

from vader_core.errors import VaderError, unknown
from vader_core.first_party import FIRST_PARTY
from vader_core.registry import Registry
from vader_core.run.config import Tree
from vader_core.values import read_document

#: Between a package and a recipe's name, where two packages have one of that name.
_BETWEEN = "/"


def recipe_files(registry: Registry) -> dict[str, list[Path]]:
    """Every installed recipe by name, unread; several files where several packages have it, ours first."""
    found: dict[str, list[Path]] = {}
    packages = registry.recipe_packages()
    for package in sorted(packages, key=lambda name: (not _is_ours(name), name)):
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


def _is_ours(package: str) -> bool:
    return package.replace("_", "-") in FIRST_PARTY


def recipes(registry: Registry) -> dict[str, Tree]:
    """Every installed recipe by name; one that cannot be read is left out, and refused once asked for."""
    found: dict[str, Tree] = {}
    for name, files in recipe_files(registry).items():
        try:
            found[name] = _read(files[0])
        except VaderError:
            continue
    return found


def read_recipe(registry: Registry, name: str) -> Tree:
    """The recipe of that name, without its summary.

    A name that one of our own packages has means ours; PACKAGE/NAME means that package's.

    Raises:
        VaderError: No installed plugin has one of that name, two others' have, or it cannot be read.
    """
    known = recipe_files(registry)
    package, between, own = name.rpartition(_BETWEEN)
    files = known.get(own if between else name, [])
    if between:
        files = [file for file in files if _package(file) == package]
    if not files:
        raise unknown("recipe", name, known)
    if len(files) > 1 and not _is_ours(_package(files[0])):
        whose = " and ".join(f"{_package(file)}{_BETWEEN}{name}" for file in files)
        raise VaderError(f"recipe {name!r} comes with several packages: ask for {whose}")
    return {key: value for key, value in _read(files[0]).items() if key != "summary"}


def _package(file: Path) -> str:
    return file.parent.parent.name


def _read(file: Path) -> Tree:
    try:
        tree = read_document(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, VaderError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise VaderError(
            f"recipe {file.stem!r} of {_package(file)} cannot be read ({file}): {reason}"
        ) from error
    if not isinstance(tree, dict):
        raise VaderError(f"recipe {file.stem!r} of {_package(file)} is no mapping of keys to values ({file})")
    return tree
