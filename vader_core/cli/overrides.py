"""The grammar of ``-o KEY=VALUE`` and ``--reward NAME[:WEIGHT]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from vader_core.errors import VaderError, did_you_mean
from vader_core.run.config import Tree
from vader_core.run.layers import merged


def parse_value(text: str) -> Any:
    """An ``-o`` value: YAML, so numbers, booleans and lists mean themselves; anything else is text.

    >>> parse_value("2"), parse_value("true"), parse_value("240p"), parse_value("[1, 2]")
    (2, True, '240p', [1, 2])
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def apply_options(tree: Tree, options: Sequence[str]) -> Tree:
    """The tree with every ``-o KEY=VALUE`` applied.

    Raises:
        VaderError: No ``=``, a section that does not exist, a reward that is not in the run.
    """
    result = merged(tree)
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise VaderError(f"-o {option}: write -o KEY=VALUE")
        section, _, rest = key.partition(".")
        if not rest:
            raise VaderError(f"-o {option}: {_OPTION_FORMS}")
        _apply_option(result, option, section, rest, parse_value(text))
    return result


_OPTION_FORMS = "KEY is backbone.K, sampler.K, reward.NAME.K, prompts.K or trainer.K"


#: Keys of a section itself; every other key is an option of the component.
_OWN_KEYS = {
    "backbone": (),
    "sampler": ("num_steps", "guidance_scale", "split_guidance"),
    "prompts": ("negative_prompt",),
}


def _mapping(tree: Tree, key: str, option: str) -> Tree:
    """The mapping at ``key``, made where it is missing."""
    inner = tree.setdefault(key, {})
    if not isinstance(inner, dict):
        raise VaderError(f"-o {option}: in the configuration {key!r} is {inner!r}, but must be a mapping")
    return inner


def _apply_option(tree: Tree, option: str, section: str, rest: str, value: Any) -> None:
    places = {"backbone": "backbone", "sampler": "sampling", "prompts": "prompts"}
    if section in places:
        place = _mapping(tree, places[section], option)
        if rest in _OWN_KEYS[section]:
            place[rest] = value
        else:
            _mapping(place, "options", option)[rest] = value
    elif section in ("trainer", "lora"):
        _mapping(tree, section, option)[rest] = value
    elif section == "reward":
        name, _, key = rest.partition(".")
        if not key:
            raise VaderError(f"-o {option}: write reward.NAME.KEY=VALUE")
        items = [
            item for item in [*tree.get("rewards", []), *tree.get("monitors", [])] if item.get("name") == name
        ]
        if not items:
            names = [str(item.get("name")) for item in [*tree.get("rewards", []), *tree.get("monitors", [])]]
            raise VaderError(
                f"-o {option}: no reward {name!r} in this run{did_you_mean(name, names)} "
                f"(rewards and monitors: {', '.join(names) or 'none'})"
            )
        for item in items:
            if key in ("weight", "cap") and item in tree.get("rewards", []):
                item[key] = value
            else:
                _mapping(item, "options", option)[key] = value
    else:
        raise VaderError(f"-o {option}: unknown section {section!r}; {_OPTION_FORMS}")


def parse_reward(text: str) -> Tree:
    """Read ``NAME[:WEIGHT]``.

    >>> parse_reward("hps:0.5")
    {'name': 'hps', 'weight': 0.5}
    """
    name, colon, weight = text.partition(":")
    if not colon:
        return {"name": name}
    try:
        return {"name": name, "weight": float(weight)}
    except ValueError:
        raise VaderError(
            f"--reward {text!r}: the weight {weight!r} is not a number; write NAME:WEIGHT"
        ) from None
