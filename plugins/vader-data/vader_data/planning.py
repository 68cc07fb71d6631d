"""From a preset, flags and ``-o`` to a checked plan."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import resources
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from vader_core.errors import VaderError, did_you_mean, unknown
from vader_core.paths import entered
from vader_core.registry import checked

from .components import Kind, component
from .manifest import schema
from .plan import Plan, ScorerPlan

Tree = dict[str, Any]

#: The options that name a component, whose own options lie beside them.
_NAMES = ("name", "scorer", "embedder")


def presets() -> dict[str, str]:
    """The presets that are shipped, each with its line."""
    found = {}
    for file in sorted(resources.files("vader_data.presets").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            found[file.name.removesuffix(".yaml")] = str(yaml.safe_load(file.read_text("utf-8"))["summary"])
    return found


def read_preset(name: str) -> Tree:
    """A preset's tree: ``plan`` and ``as_upstream``.

    Args:
        name: Of a preset that is shipped, or the path of a YAML file of the same form.

    Raises:
        VaderError: No such preset, or not of that form.
    """
    if name.endswith((".yaml", ".yml")):
        path = entered(name)
        if not path.is_file():
            raise VaderError(f"preset {name!r}: no such file")
        text = path.read_text(encoding="utf-8")
    else:
        known = presets()
        if name not in known:
            raise unknown("preset", name, known)
        text = resources.files("vader_data.presets").joinpath(f"{name}.yaml").read_text("utf-8")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise VaderError(f"preset {name!r} is not readable YAML: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("plan"), dict):
        raise VaderError(f"preset {name!r}: it must hold `plan:` and may hold `summary:` and `as_upstream:`")
    extra = sorted(tree.keys() - {"summary", "plan", "as_upstream"})
    if extra:
        raise VaderError(f"preset {name!r}: unknown key {extra[0]!r} (known: summary, plan, as_upstream)")
    return tree


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """``above`` over ``below``, mappings key by key.

    >>> merged({"cut": {"fps": 30, "crf": 22}}, {"cut": {"fps": 24}})
    {'cut': {'fps': 24, 'crf': 22}}
    """
    found: Tree = copy.deepcopy(dict(below))
    for key, value in above.items():
        inner = found.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            found[key] = merged(inner, value)
        else:
            found[key] = copy.deepcopy(value)
    return found


def make_plan(
    preset: str,
    *,
    as_upstream: bool = False,
    changes: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
) -> Plan:
    """The plan that preset, flags and ``-o KEY=VALUE`` make together, each over the one before.

    Args:
        preset: A name or a YAML file.
        as_upstream: Switch on what upstream does by mistake.
        changes: A tree of changes, from flags.
        options: ``KEY=VALUE``, the key a path in the plan.

    Raises:
        VaderError: An unknown preset, key, component or option, or a bad value.
    """
    tree = read_preset(preset)
    plan: Tree = merged({"preset": preset}, tree["plan"])
    if as_upstream:
        plan = merged(plan, tree.get("as_upstream") or {})
    plan = merged(plan, changes or {})
    for option in options:
        _apply(plan, option)
    return check_plan(plan)


def check_plan(tree: Mapping[str, Any]) -> Plan:
    """The tree as a plan, with every component's own options checked.

    Raises:
        VaderError: What is wrong, and what is allowed.
    """
    plan: Plan = checked(Plan, dict(tree), "the plan")
    for kind, name, given in _named(plan):
        if name != "none" or kind == "detector":
            _checked_component(kind, name, given)
        elif given:
            raise VaderError(f"{kind} `none` has no options, but {', '.join(given)} was given; remove it")
    schema(plan.columns())  # a score must not have the name of another column
    for name, scorer in plan.scorers.items():
        low, high = scorer.min, scorer.max
        if low is not None and high is not None and low > high:
            raise VaderError(f"scorers.{name}: min={low:g} lies above max={high:g}: nothing would be kept")
    from .exports import FORMATS

    for name in plan.exports:
        if name not in FORMATS:
            raise unknown("export format", name, FORMATS)
    return plan


def _checked_component(kind: Kind, name: str, given: dict[str, Any]) -> None:
    try:
        component(kind, name).check(given)
    except VaderError as error:
        if kind != "captioner":
            raise
        raise VaderError(
            f"{error}\nwrite captions.options.OPTION=VALUE after -o, or leave them out with --captions none"
        ) from error


def _named(plan: Plan) -> list[tuple[Kind, str, dict[str, Any]]]:
    return [
        ("detector", plan.detector.name, plan.detector.options),
        *(("scorer", scorer.scorer, scorer.options) for scorer in plan.scorers.values()),
        ("captioner", plan.captions.name, plan.captions.options),
        ("embedder", plan.duplicates.embedder, plan.duplicates.options),
    ]


# -- KEY=VALUE ---------------------------------------------------------------------------------------------


def _apply(tree: Tree, option: str) -> None:
    key, equals, text = option.partition("=")
    if not equals or not key:
        raise VaderError(f"-o {option!r}: write KEY=VALUE, e.g. -o cut.max_seconds=8")
    parts = key.strip().split(".")
    if len(parts) == 2 and parts[0] == "scorers" and text == "none":
        if tree.get("scorers", {}).pop(parts[1], None) is None:
            known = ", ".join(tree.get("scorers", {})) or "none"
            raise VaderError(f"-o {option!r}: there is no score {parts[1]!r} to leave out (scores: {known})")
        return
    annotation = _annotation(tree, parts, option)
    place = tree
    for part in parts[:-1]:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise VaderError(f"-o {option!r}: {part!r} holds no further options")
        place = inner
    if parts[-1] in _NAMES and "options" not in parts and place.get(parts[-1]) != text:
        place["options"] = {}  # they were another component's
    place[parts[-1]] = typed(text, annotation)


def _annotation(tree: Tree, parts: Sequence[str], option: str) -> Any:
    """The declared type of the option at a path; ``str`` where only its component knows."""
    model: type[BaseModel] = Plan
    for depth, part in enumerate(parts):
        if part not in model.model_fields:
            near = did_you_mean(part, model.model_fields)
            place = ".".join(parts[:depth]) or "the plan"
            known = ", ".join(model.model_fields)
            raise VaderError(f"-o {option!r}: {place} has no option {part!r}{near} (options: {known})")
        annotation = model.model_fields[part].annotation
        if part == "scorers" and len(parts) > depth + 2:
            return _annotation_below(tree, ScorerPlan, parts[: depth + 2], parts[depth + 2 :], option)
        if part == "options":
            return _option_annotation(tree, parts[:depth], parts[depth + 1 :])
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
            continue
        return annotation if depth == len(parts) - 1 else str
    raise VaderError(f"-o {option!r}: this names a whole section ({', '.join(model.model_fields)})")


def _annotation_below(
    tree: Tree, model: type[BaseModel], before: Sequence[str], parts: Sequence[str], option: str
) -> Any:
    if parts[0] not in model.model_fields:
        near = did_you_mean(parts[0], model.model_fields)
        known = ", ".join(model.model_fields)
        raise VaderError(f"-o {option!r}: a scorer has no option {parts[0]!r}{near} (options: {known})")
    if parts[0] == "options":
        return _option_annotation(tree, before, parts[1:])
    return model.model_fields[parts[0]].annotation


def _option_annotation(tree: Tree, before: Sequence[str], rest: Sequence[str]) -> Any:
    """Of a component's own option; its component's check names an unknown one."""
    place: Any = tree
    for part in before:
        place = place.get(part, {}) if isinstance(place, dict) else {}
    kinds: dict[str, tuple[Kind, str]] = {
        "detector": ("detector", "name"),
        "scorers": ("scorer", "scorer"),
        "captions": ("captioner", "name"),
        "duplicates": ("embedder", "embedder"),
    }
    kind, word = kinds[before[0]]
    name = place.get(word) if isinstance(place, dict) else None
    if not name or name == "none" or len(rest) != 1:
        return str
    field = component(kind, str(name)).options.model_fields.get(rest[0])
    return str if field is None else field.annotation


def typed(text: str, annotation: Any) -> Any:
    """A value by its declared type; numbers and switches are left to the option model.

    >>> typed("none", float | None), typed("10,20", list[float]), typed("0.5", float)
    (None, ['10', '20'], '0.5')
    """
    choices = get_args(annotation)
    if NoneType in choices and text.lower() in ("none", "null"):
        return None
    if get_origin(annotation) is list or any(get_origin(choice) is list for choice in choices):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
