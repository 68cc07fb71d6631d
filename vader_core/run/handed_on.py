"""A run's settings as they are handed on: of each file its name, and no folder of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml

from vader_core.paths import without_folder

#: What a person wrote for the model to read is no path, whatever it begins with.
_PROSE = ("text", "negative", "negative_prompt")


def handed_on(text: str) -> str:
    """The YAML of a run's settings with the name alone of every absolute path; all else as it stands.

    Args:
        text: Of ``config.yaml``; what is no YAML comes back as it is.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return text
    places = sorted(_paths(root), key=lambda node: node.start_mark.index, reverse=True)
    for node in places:
        name = without_folder(node.value)
        plain = name if re.fullmatch(r"[\w.:-]*[\w.-]", name) else json.dumps(name, ensure_ascii=False)
        text = text[: node.start_mark.index] + plain + text[node.end_mark.index :]
    return text


def command_word(word: str) -> str:
    """A word of a command line, likewise.

    >>> command_word("/home/me/red.py:red"), command_word("prompts.folder=/home/me/lists"), command_word("-o")
    ('red.py:red', 'prompts.folder=lists', '-o')
    """
    key, equals, value = word.partition("=")
    return f"{key}={without_folder(value)}" if equals and "/" not in key else without_folder(word)


def _paths(root: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Every value that is an absolute path, once, however often aliases lead to it."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            if without_folder(node.value) != node.value:
                yield node
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [value for key, value in node.value if key.value not in _PROSE]
