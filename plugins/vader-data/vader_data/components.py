"""Scene detectors, scorers, captioners and embedders by name: what an option's word stands for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Literal

import pluggy
from pydantic import BaseModel, ConfigDict

from vader_core.errors import VaderError, unknown
from vader_core.registry import checked

from . import hookspecs

Kind = Literal["detector", "scorer", "captioner", "embedder"]

KINDS: dict[Kind, str] = {
    "detector": "register_detectors",
    "scorer": "register_scorers",
    "captioner": "register_captioners",
    "embedder": "register_embedders",
}


class NoOptions(BaseModel):
    """The options of a component that has none."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Component:
    """A registered component.

    Args:
        kind: What it is.
        name: Its name among its kind.
        target: ``module:Class``; the class takes the options.
        options: Pydantic model of its options.
        summary: One line.
        plugin: Entry point that registered it.
        gpu: Whether it runs a network and should have a stage of its own, in batches.
    """

    kind: Kind
    name: str
    target: str
    options: type[BaseModel]
    summary: str
    plugin: str
    gpu: bool = False

    def check(self, given: dict[str, Any]) -> BaseModel:
        """The checked options.

        Raises:
            VaderError: An unknown option, or a bad value.
        """
        found: BaseModel = checked(self.options, given, f"{self.kind} {self.name!r}")
        return found

    def make(self, given: dict[str, Any]) -> Any:
        """The component itself; heavy imports and weights are loaded here."""
        options = self.check(given)
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)(options)


@cache
def components() -> dict[Kind, dict[str, Component]]:
    """Everything that the entry points of the group ``vader_data`` announce, read once per process.

    Raises:
        VaderError: A plugin cannot be loaded, or two claim one name.
    """
    table: dict[Kind, dict[str, Component]] = {kind: {} for kind in KINDS}
    seen: set[tuple[str, str]] = set()
    for point in sorted(metadata.entry_points(group=hookspecs.PROJECT), key=lambda found: found.name):
        if (point.name, point.value) in seen:  # an editable install can be found twice
            continue
        seen.add((point.name, point.value))
        for component in _announced(point):
            other = table[component.kind].get(component.name)
            if other is not None:
                raise VaderError(
                    f"{component.kind} {component.name!r} is registered by both {other.plugin!r} and "
                    f"{component.plugin!r}; uninstall one of them"
                )
            table[component.kind][component.name] = component
    return table


def _announced(point: metadata.EntryPoint) -> list[Component]:
    staged: list[Component] = []
    try:
        module = point.load()
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        manager.register(module, name=point.name)
        manager.check_pending()
        for kind, hook in KINDS.items():
            getattr(manager.hook, hook)(register=_collector(staged, kind, point.name))
    except Exception as error:  # the plugin border: a stranger's code may raise anything
        raise VaderError(
            f"the data plugin {point.name!r} ({point.value}) failed to load: "
            f"{type(error).__name__}: {error}; repair or uninstall it"
        ) from error
    return staged


def _collector(staged: list[Component], kind: Kind, plugin: str) -> hookspecs.Register:
    def register(
        name: str,
        target: str,
        *,
        options: type[BaseModel] | None = None,
        summary: str = "",
        gpu: bool = False,
    ) -> None:
        staged.append(Component(kind, name, target, options or NoOptions, summary, plugin, gpu))

    return register


def component(kind: Kind, name: str) -> Component:
    """The component of that kind and name.

    Raises:
        VaderError: None has that name; lists what is installed, the near one first.
    """
    table = components()[kind]
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]
