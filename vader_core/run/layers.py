"""The layers of a configuration: read, merged, written, compared."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vader_core.errors import VaderError
from vader_core.run.config import RunConfig, validated
from vader_core.run.recipes import read_recipe as read_recipe
from vader_core.run.recipes import recipes as recipes
from vader_core.run.section import Tree
from vader_core.values import read_document


def merged(*layers: Mapping[str, Any]) -> Tree:
    """The layers as one tree; the later wins, mappings are merged, lists are replaced.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result: Tree = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
                result[key] = merged(result[key], value)
            else:
                result[key] = copy.deepcopy(value) if not isinstance(value, Mapping) else merged(value)
    return result


def changed(config: RunConfig, **sections: Mapping[str, Any]) -> RunConfig:
    """The same run with some values replaced, by section: ``changed(config, trainer={"seed": 1})``.

    Raises:
        VaderError: An unknown key or a bad value.
    """
    return validated(merged(config.model_dump(), sections))


def default_out(config: RunConfig) -> Path:
    """``runs/BACKBONE-REWARD…``, ``runs/BACKBONE-data`` where clips are learned from."""
    parts = [config.backbone.name or "run", *(item.name for item in config.reward)]
    if config.data.source is not None:
        parts.append("data")
    return Path("runs") / "-".join(parts)


#: How runs wrote the section while guidance 1 of its own could not be asked for.
_NOTHING_ASKED = {"lora": "null", "sampler": "null", "num_steps": "null", "guidance_scale": "1.0"}


def read_settings(text: str) -> Any:
    """A configuration's YAML, with what earlier versions wrote differently as it is written now."""
    tree = read_document(text)
    section = tree.get("rollout") if isinstance(tree, dict) else None
    if isinstance(section, dict) and {key: str(value) for key, value in section.items()} == _NOTHING_ASKED:
        return {key: value for key, value in tree.items() if key != "rollout"}
    return tree


def read_yaml(path: Path) -> Tree:
    """A configuration file.

    Raises:
        VaderError: Not there, not YAML, or not a mapping.
    """
    try:
        tree = read_settings(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise VaderError(f"--config {path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise VaderError(f"--config {path} is not YAML: {error}") from error
    except VaderError as error:
        raise VaderError(f"--config {path}: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise VaderError(f"--config {path}: the file must be a mapping of keys to values")
    if "prompts" in tree:
        tree["prompts"] = prompts_spelled_out(tree["prompts"])
    return tree


def prompts_spelled_out(value: Any) -> Any:
    """The ``prompts`` section from its short forms: a source's name, or a list of prompts.

    Raises:
        VaderError: A list with anything but texts.

    >>> prompts_spelled_out("animal"), prompts_spelled_out(["a cat", "a dog"])
    ({'source': 'animal'}, {'source': 'text', 'text': ['a cat', 'a dog']})
    """
    if isinstance(value, str):
        return {"source": value}
    if not isinstance(value, list | tuple):
        return value
    if not all(isinstance(text, str) for text in value):
        raise VaderError("configuration: prompts: a list of prompts holds texts alone")
    return {"source": "text", "text": [str(text) for text in value]}


def to_yaml(config: RunConfig) -> str:
    """The whole tree as YAML, which ``--config`` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def changes(before: RunConfig, after: RunConfig) -> list[str]:
    """What differs, one line per key: ``trainer.lr: 0.0002 -> 0.0001``."""
    left, right = _flat(_written(before)), _flat(_written(after))
    keys = sorted(left.keys() | right.keys())
    return [
        f"{key}: {left.get(key)!r} -> {right.get(key)!r}" for key in keys if left.get(key) != right.get(key)
    ]


def _written(config: RunConfig) -> Tree:
    """The tree as a file gives it back: a component's own options are then text, typed by nobody yet."""
    return validated(read_document(to_yaml(config))).model_dump(mode="json")


def _flat(tree: Any, where: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping):
        items = [(f"{where}.{key}" if where else str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list) and tree and isinstance(tree[0], Mapping):
        items = [(f"{where}[{value.get('name', index)}]", value) for index, value in enumerate(tree)]
    else:
        return {where: tree}
    result: dict[str, Any] = {}
    for key, value in items:
        result.update(_flat(value, key))
    return result
