"""Calling one plugin's hooks, and checking every word that it says: a plugin is a stranger's code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pluggy

from vader_core import hookspecs
from vader_core.component import KINDS, Announced, Component, Kind, Registration
from vader_core.errors import VaderError, did_you_mean
from vader_core.hookspecs import PROJECT

_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: One word, or a group and a word: ``data cut``.
_COMMAND = re.compile(r"[a-z][a-z0-9_-]*( [a-z][a-z0-9_-]*)?")
_TARGET = re.compile(r"[\w.]+:\w+")


@dataclass
class Registered:
    """Everything that one plugin announced."""

    components: list[Component] = field(default_factory=list)
    commands: list[Announced] = field(default_factory=list)
    lora_formats: list[Announced] = field(default_factory=list)


def registered(module: Any, plugin: str) -> Registered:
    """Call the hooks of a plugin module.

    Args:
        module: The module; any object with hooks will do.
        plugin: Name of its entry point.

    Raises:
        VaderError: A misspelt hook, or a name, a summary or a factory of the wrong type.
        BaseException: Whatever the plugin raises.
    """
    found = Registered()
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=plugin)
    _check_hook_names(module)
    manager.check_pending()
    place = str(getattr(module, "__name__", type(module).__module__))
    for kind, facts in KINDS.items():
        getattr(manager.hook, facts.hook)(register=_collector(found.components, kind, plugin, place))
    manager.hook.register_commands(register=_announcer(found.commands, "command", plugin))
    manager.hook.register_lora_formats(register=_announcer(found.lora_formats, "LoRA format", plugin))
    return found


def _check_hook_names(module: Any) -> None:
    known = {*(facts.hook for facts in KINDS.values()), "register_commands", "register_lora_formats"}
    for name, value in vars(module).items():
        misspelt = name not in known and hasattr(value, f"{PROJECT}_impl")
        if misspelt:
            raise VaderError(
                f"unknown hook {name!r}{did_you_mean(name, known)} (hooks: {', '.join(sorted(known))})"
            )


def _plain(value: object, what: str) -> str:
    """``value`` as an exact ``str``: a subclass could answer otherwise each time it is asked."""
    if not isinstance(value, str):
        raise VaderError(f"{what} is a {type(value).__name__}, not text")
    return str.__str__(value)


def _collector(staged: list[Component], kind: Kind, plugin: str, module: str) -> hookspecs.Register:
    def register(
        name: str,
        factory: hookspecs.Factory | str,
        *,
        config: Any = None,
        summary: str = "",
        weights: Any = (),
    ) -> None:
        name = _plain(name, f"the name of a {kind}")
        if not _NAME.fullmatch(name):
            raise VaderError(
                f"{name!r} is not a name: use lower-case letters, digits and _, beginning with a letter"
            )
        what = f"{kind} {name!r}"
        summary = _plain(summary, f"{what}: the summary")
        if isinstance(factory, str):
            factory = _target(factory, what)
        elif not callable(factory):
            raise VaderError(f"{what}: the factory is a {type(factory).__name__}, not a function")
        held = Registration(factory, _model(config, what), _weights(weights, what))
        staged.append(Component(kind, name, summary, plugin, module, lambda: held))

    return register


def _model(config: Any, what: str) -> Any:
    from pydantic import BaseModel

    if config is not None and not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise VaderError(f"{what}: config must be a pydantic model, not a {type(config).__name__}")
    return config


def _weights(weights: Any, what: str) -> tuple[Any, ...]:
    from vader_core.weights import WeightFile

    if not isinstance(weights, tuple | list) or not all(isinstance(file, WeightFile) for file in weights):
        raise VaderError(f"{what}: weights must be WeightFiles in a tuple")
    return tuple(weights)


def _target(target: str, what: str) -> str:
    target = _plain(target, f"{what}: the target")
    if not _TARGET.fullmatch(target):
        raise VaderError(f"{what}: target {target!r} must be written module:attribute")
    return target


def _announcer(announced: list[Announced], what: str, plugin: str) -> hookspecs.RegisterCommand:
    def register(name: str, target: str, *, summary: str = "") -> None:
        name = _plain(name, f"the name of a {what}")
        if not _COMMAND.fullmatch(name):
            raise VaderError(
                f"{name!r} is not a {what}'s name: use lower-case letters, digits, - and _, "
                "beginning with a letter"
            )
        summary = _plain(summary, f"{what} {name!r}: the summary")
        announced.append(Announced(name, _target(target, f"{what} {name!r}"), summary, plugin))

    return register
