"""Recipes: published settings that plugins ship as files, read."""

from __future__ import annotations

from pathlib import Path

import yaml

from vader_core.errors import VaderError, unknown
from vader_core.recipe_files import is_ours, recipe_files
from vader_core.registry import Registry
from vader_core.run.section import Tree
from vader_core.values import read_document

#: Between a package and a recipe's name, where two packages have one of that name.
_BETWEEN = "/"


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
    if len(files) > 1 and not is_ours(_package(files[0])):
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
