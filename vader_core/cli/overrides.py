"""The grammar of ``-o KEY=VALUE``, ``--reward NAME[:WEIGHT]`` and ``--objective NAME[:WEIGHT]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError, did_you_mean
from vader_core.function_files import FunctionFile
from vader_core.registry import Registry
from vader_core.run.config import MOVED, RunConfig, StageSection
from vader_core.run.layers import merged
from vader_core.run.section import Tree
from vader_core.values import parse_value

#: Sections that are lists of named items.
_LISTS = ("reward", "monitor")


def apply_options(tree: Tree, options: Sequence[str]) -> Tree:
    """The tree with every ``-o KEY=VALUE`` applied; KEY is the option's path in the run's YAML.

    Raises:
        VaderError: No ``=``, a key given twice, no such section, a reward that is not in the run.
    """
    result = merged(tree)
    seen: set[str] = set()
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise VaderError(f"-o {option}: write -o KEY=VALUE")
        if key in seen:
            raise VaderError(f"-o {key} is given twice: give it once")
        seen.add(key)
        _apply_option(result, option, key, parse_value(text))
    return result


def keys_of(options: Sequence[str]) -> set[str]:
    """The keys that ``-o`` sets."""
    return {option.partition("=")[0] for option in options}


def keys_as_tree(options: Sequence[str]) -> Tree:
    """A tree of what ``-o`` sets, but for what it sets in one stage alone.

    >>> keys_as_tree(["trainer.lr=1", "stages.2.trainer.lr=2"])
    {'trainer': {'lr': '1'}}
    """
    tree: Tree = {}
    for option in options:
        key, _, value = option.partition("=")
        if key.startswith("stages."):
            continue
        *path, last = key.split(".")
        place = tree
        for step in path:
            inner = place.setdefault(step, {})
            place = inner if isinstance(inner, dict) else {}
        place[last] = value
    return tree


def _forms() -> str:
    forms = {name: f"{name}.NAME.K" for name in (*_LISTS, "objective")} | {"stages": "stages.N.KEY"}
    sections = [forms.get(name, f"{name}.K") for name in _sections()]
    return f"KEY is {', '.join(sections[:-1])} or {sections[-1]}"


def _sections() -> list[str]:
    return list(RunConfig.model_fields)


def _apply_option(tree: Tree, option: str, key: str, value: Any) -> None:
    section, *path = key.split(".")
    if key == "stages":
        tree[key] = value
        return
    if section == "stages":
        tree, path = _stage(tree, option, path), path[1:]
        if path[0] not in StageSection.model_fields:
            _apply_option(tree, option, ".".join(path), value)
            return
        _put(tree, option, path, value)
        return
    words = key.split(".")
    for end in range(len(words), 0, -1):  # the longest part of the key that has moved
        if old := MOVED.get(".".join(words[:end])):
            raise VaderError(f"-o {option}: {key!r} is now {'.'.join([old, *words[end:]])!r}")
    if section not in RunConfig.model_fields:
        raise VaderError(
            f"-o {option}: unknown section {section!r}{did_you_mean(section, _sections())}; {_forms()}"
        )
    if not path or not all(path):
        raise VaderError(f"-o {option}: {_forms()}")
    if section in _LISTS:
        name, *path = path
        if not path:
            raise VaderError(f"-o {option}: write {section}.NAME.KEY=VALUE")
        place = _item(tree, option, section, name)
    else:
        place = _mapping(tree, section, option)
    _put(place, option, path, value)


def _put(place: Tree, option: str, path: Sequence[str], value: Any) -> None:
    for step in path[:-1]:
        place = _mapping(place, step, option)
    place[path[-1]] = value


def _stage(tree: Tree, option: str, path: Sequence[str]) -> Tree:
    """The stage of that number or name."""
    items = [item for item in tree.get("stages") or [] if isinstance(item, dict)]
    words = {str(number): item for number, item in enumerate(items, 1)}
    words |= {str(item["name"]): item for item in items if item.get("name")}
    if len(path) < 2 or path[0] not in words:
        raise VaderError(
            f"-o {option}: write stages.N.KEY=VALUE with N a stage's number or name "
            f"(stages: {', '.join(words) or 'this run has none'})"
        )
    return words[path[0]]


def _mapping(tree: Tree, key: str, option: str) -> Tree:
    """The mapping at ``key``, made where it is missing."""
    inner = tree.setdefault(key, {})
    if not isinstance(inner, dict):
        raise VaderError(f"-o {option}: in the configuration {key!r} is {inner!r}, but must be a mapping")
    return inner


def _item(tree: Tree, option: str, section: str, name: str) -> Tree:
    """The reward or monitor of that name."""
    items: list[Tree] = [item for item in tree.get(section) or [] if isinstance(item, dict)]
    for item in items:
        if item.get("name") == name:
            return item
    other = "monitor" if section == "reward" else "reward"
    if any(item.get("name") == name for item in tree.get(other) or []):
        raise VaderError(f"-o {option}: {name!r} is a {other} of this run: write {other}.{name}.KEY=VALUE")
    names = [str(item.get("name")) for item in items]
    raise VaderError(
        f"-o {option}: no {section} {name!r} in this run{did_you_mean(name, names)} "
        f"({section}s: {', '.join(names) or 'none'})"
    )


def parse_weighted(text: str, flag: str = "--reward") -> tuple[str, float | None]:
    """Read ``NAME[:WEIGHT]``.

    >>> parse_weighted("hps:0.5"), parse_weighted("hps")
    (('hps', 0.5), ('hps', None))
    """
    name, colon, weight = text.partition(":")
    if not name:
        raise VaderError(f"{flag} {text!r}: no name; write NAME or NAME:WEIGHT")
    if not colon:
        return name, None
    try:
        return name, float(weight)
    except ValueError:
        raise VaderError(
            f"{flag} {text!r}: the weight {weight!r} is not a number; write NAME:WEIGHT"
        ) from None


def parse_reward(text: str, registry: Registry, flag: str = "--reward") -> Tree:
    """Read ``--reward NAME[:WEIGHT]`` or ``FILE.py:FUNCTION[:WEIGHT]`` as an item of the run's rewards.

    Raises:
        VaderError: No such file or function, a weight that is no number, or a weight where none belongs.
    """
    found = FunctionFile.parse(text)
    entry: Tree
    if found is None and flag == "--monitor":
        return {"name": text}
    if found is None:
        name, weight = parse_weighted(text, flag)
        entry = {"name": name}
    else:
        entry = found.add_to(registry)
        weight = parse_weighted(f"{found.function}:{found.weight}", flag)[1] if found.weight else None
    if weight is not None and flag == "--monitor":
        raise VaderError(f"--monitor {text}: what is only watched has no weight: leave it out")
    return entry if weight is None else {**entry, "weight": weight}


def named_again(given: Sequence[Tree], base: object) -> list[Tree] | None:
    """The run's own rewards where all that are given are functions that it has already: these only permit it.

    A configuration that was handed on names a function's file without its folder: it is the one given here.

    Returns:
        The run's entries, each with its file's place here; ``None`` where the given ones replace them.
    """
    known = [item for item in base if isinstance(item, dict)] if isinstance(base, list) else []
    found = [dict(item) for item in known]
    for item in given:
        if not item.get("function_file") or "weight" in item:
            return None
        file = str(item["function_file"])
        same = [one for one in found if one.get("name") == item["name"]]
        same = [one for one in same if one.get("function_file") in (file, Path(file).name)]
        if not same:
            return None
        same[0]["function_file"] = file
    return found if given else None
