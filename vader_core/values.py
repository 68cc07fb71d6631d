"""Values as people type them, read by the type that an option declares, never by what YAML makes of them.

YAML 1.1 reads ``9:16`` as 556, ``off`` as false and ``012`` as 10. Here a scalar stays the text that was
typed until the option it belongs to says what it is.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from vader_core.errors import VaderError
from vader_core.paths import entered

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_NULL = ("null", "~", "")
#: Deeper nesting in a file is no configuration, and would exhaust Python's stack.
DEEPEST = 20
#: So many nodes are no configuration: aliases of aliases grow without bound.
MOST_NODES = 100_000


class Typed(str):
    """A scalar as it was typed, without quotes: what it means is for its option to say."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """Reads plain scalars as :class:`Typed`; quoted ones are text."""


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return Typed(node.value) if node.style is None else str(node.value)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_constructor("tag:yaml.org,2002:str", _scalar)


def read_document(text: str) -> Any:
    """A YAML document whose plain scalars are :class:`Typed`; ``None`` for an empty one.

    Raises:
        yaml.YAMLError: Not YAML.
        VaderError: Nested deeper than any configuration, or with an alias within itself.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _check_size(node)
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise VaderError(f"nested deeper than {DEEPEST} levels") from None


def _check_size(root: yaml.Node) -> None:
    waiting, seen = [(root, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST_NODES:
            raise VaderError(f"nested deeper than {DEEPEST} levels, or of more than {MOST_NODES:,} values")
        if isinstance(node, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            waiting += [(part, depth + 1) for pair in node.value for part in pair]


def parse_value(text: str) -> Any:
    """An ``-o`` value: lists, mappings and quoted text are YAML; anything else is what was typed.

    >>> parse_value("9:16"), parse_value("off"), parse_value("[1, 2]"), parse_value("'null'")
    ('9:16', 'off', ['1', '2'], 'null')
    """
    if text[:1] in ("[", "{", '"', "'"):
        try:
            return read_document(text)
        except yaml.YAMLError:
            return text
    return Typed(text)


def read_options(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The option values, everything typed read by the type of its field; unknown keys stay text."""
    by_name = {field.alias or name: field for name, field in model.model_fields.items()}
    by_name |= dict(model.model_fields)
    return {
        key: read_value(value, by_name[key].annotation) if key in by_name else plain(value)
        for key, value in given.items()
    }


def read_value(value: Any, annotation: Any) -> Any:
    """``value`` as ``annotation`` wants it; what does not fit stays as it was typed, for pydantic to refuse.

    >>> read_value(Typed("off"), bool), read_value(Typed("366"), str), read_value(Typed("null"), int | None)
    (False, '366', None)
    >>> read_value(Typed("9:16"), float | str)
    '9:16'
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return read_value(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, arguments)
    if isinstance(value, str):
        return _scalar_as(value, annotation, origin, arguments)
    if isinstance(value, Mapping):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return read_options(annotation, value)
        inner = arguments[1] if len(arguments) == 2 else Any
        return {str(key): read_value(one, inner) for key, one in value.items()}
    if isinstance(value, Sequence):
        kinds = [one for one in arguments if one is not Ellipsis] or [Any]
        several = origin is tuple and Ellipsis not in arguments and len(kinds) == len(value)
        return [read_value(one, kinds[i] if several else kinds[0]) for i, one in enumerate(value)]
    return value


def _one_of(value: Any, annotations: Sequence[Any]) -> Any:
    """``value`` as the first of the types that takes it; plain text last."""
    if isinstance(value, Typed) and type(None) in annotations and value in _NULL:
        return None
    for annotation in sorted(annotations, key=lambda one: one in (str, Path, Any)):
        if annotation is type(None):
            continue
        found = read_value(value, annotation)
        if not isinstance(found, Typed):
            return found
    return plain(value)


def _scalar_as(text: str, annotation: Any, origin: Any, arguments: Sequence[Any]) -> Any:
    """Text as a scalar type; a :class:`Typed` where it does not fit."""
    if origin is typing.Literal:
        return next((value for value in arguments if str(value) == text), text)
    if annotation in (str, Any):
        return str(text)
    if annotation is Path:
        return entered(text)
    if not isinstance(text, Typed):
        return text
    if annotation is bool and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    if annotation in (int, float):
        try:
            return annotation(text)
        except ValueError:
            return text
    return text


def plain(value: Any) -> Any:
    """``value`` with every :class:`Typed` as ordinary text."""
    if isinstance(value, Typed):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def not_finite(value: Any, where: str = "") -> str | None:
    """The place of a number that is infinite or no number, or ``None``."""
    if isinstance(value, float) and not math.isfinite(value):
        return where or "value"
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    items = value.items() if isinstance(value, Mapping) else []
    if isinstance(value, list | tuple):
        items = enumerate(value)  # type: ignore[assignment]
    for key, one in items:
        found = not_finite(one, f"{where}.{key}" if where else str(key))
        if found:
            return found
    return None
