"""The registry: names to components, and every look-up error."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import metadata
from traceback import format_exception
from typing import Any, cast

from vader_core.component import (
    KINDS,
    Announced,
    Component,
    Kind,
    Plugin,
    Registration,
    checked,
    kind_called,
    output_kept_clean,
    resolved,
    told,
)
from vader_core.errors import VaderError, near
from vader_core.first_party import FIRST_PARTY, first_party
from vader_core.listing import GROUP, Listed, listed

__all__ = [
    "FIRST_PARTY",
    "KINDS",
    "Announced",
    "Component",
    "Kind",
    "Plugin",
    "Registration",
    "Registry",
    "checked",
    "kind_called",
    "load_registry",
    "resolved",
]


@dataclass
class Registry:
    """Everything the installed plugins announced."""

    plugins: list[Plugin] = field(default_factory=list)
    components: dict[Kind, dict[str, Component]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    commands: dict[str, Announced] = field(default_factory=dict)
    lora_formats: dict[str, Announced] = field(default_factory=dict)
    #: Names that two plugins claim: (kind, name) -> the plugins.
    clashes: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    # -- filling -----------------------------------------------------------------------------------------

    def add(self, module: Any, plugin: Plugin) -> None:
        """Call a plugin module's hooks in this process; one with an error is recorded and adds nothing."""
        from vader_core.registration import registered

        try:
            with output_kept_clean():
                found = registered(module, plugin.name)
        except BaseException as error:  # the plugin border: a stranger's code may raise anything
            trace = "".join(format_exception(error))
            self.plugins.append(replace(plugin, error=told(error), trace=trace))
            return
        self.plugins.append(plugin)
        self._claim_all(found.components, found.commands, found.lora_formats)

    def add_listed(self, found: Listed) -> None:
        """Add what a plugin was found to announce; it is imported when one of its components is used."""
        plugin = found.plugin
        self.plugins.append(plugin)
        late = _Late(plugin, found.value)
        components = [
            Component(
                cast(Kind, kind), name, summary, plugin.name, plugin.module, partial(late.get, kind, name)
            )
            for kind, name, summary in found.components
        ]
        commands = [Announced(*words, plugin.name) for words in found.commands]
        formats = [Announced(*words, plugin.name) for words in found.lora_formats]
        self._claim_all(components, commands, formats)

    def _claim_all(
        self, components: list[Component], commands: list[Announced], formats: list[Announced]
    ) -> None:
        for component in components:
            self._claim(component.kind, component.name, self.components[component.kind], component)
        for command in commands:
            self._claim("command", command.name, self.commands, command)
        for format_ in formats:
            self._claim("LoRA format", format_.name, self.lora_formats, format_)

    def _claim(self, kind: str, name: str, table: dict[str, Any], item: Any) -> None:
        key = (kind, name)
        if key in self.clashes:
            self.clashes[key].append(item.plugin)
        elif name in table:
            self.clashes[key] = [table.pop(name).plugin, item.plugin]
        else:
            table[name] = item

    # -- looking up --------------------------------------------------------------------------------------

    def get(self, kind: Kind, name: str) -> Component:
        """The component of that kind and name.

        Raises:
            VaderError: None, or two, have that name; says what is installed, what is near, and what to
                install.
        """
        if name in self.components[kind]:
            return self.components[kind][name]
        claimed = self.clashes.get((kind, name))
        if claimed:
            raise VaderError(
                f"{kind} {name!r} is registered by {' and '.join(repr(plugin) for plugin in claimed)}; "
                "uninstall one of them"
            )
        raise VaderError(self._unknown(kind, name))

    def _unknown(self, kind: Kind, name: str) -> str:
        table = self.components[kind]
        installed = ", ".join(f"{found} ({table[found].plugin})" for found in sorted(table))
        message = f"unknown {kind} {name!r}; installed: {installed or 'none'}"
        absent = dict(self._absent(kind))
        if name in absent:
            return f"{message}\n{kind} {name!r} comes with {absent[name]}: {_install(absent[name])}"
        is_place = name.startswith("hub:") or os.path.exists(name)  # noqa: PTH110 - of a word of any length
        if kind == "backbone" and is_place:
            return (
                f"--backbone {name}: a backbone is a name (installed: {', '.join(sorted(table)) or 'none'}); "
                f"its weights are --weights {name}, a LoRA or a run is --lora {name}"
            )
        close, far = near(name, table), near(name, absent)
        if others := self._kinds_of(name):
            message += f"\n{name!r} is a {' and a '.join(others)}: {' or '.join(map(_flag, others))} {name}"
        elif close:
            message += f"\ndid you mean {close[0]!r}?"
        elif far:
            distribution = absent[far[0]]
            message += f"\ndid you mean {far[0]!r}? It comes with {distribution}: {_install(distribution)}"
        for plugin in self.broken():
            message += f"\nplugin {plugin.name!r} ({plugin.distribution}) failed to load: {plugin.error}"
        return message

    def _absent(self, kind: Kind) -> list[tuple[str, str]]:
        """Our own components whose distribution is not installed: name and distribution."""
        installed = {plugin.distribution for plugin in self.plugins}
        return [
            (name, distribution) for name, distribution in first_party(kind) if distribution not in installed
        ]

    def _kinds_of(self, name: str) -> list[Kind]:
        return [kind for kind, table in self.components.items() if name in table]

    def broken(self) -> list[Plugin]:
        """Plugins that could not be used."""
        return [plugin for plugin in self.plugins if plugin.error]

    def recipe_packages(self) -> list[str]:
        """Packages that may carry a ``recipes`` folder, one per plugin; a plugin of one module has none."""
        packages = {plugin.module.rpartition(".")[0] for plugin in self.plugins if not plugin.error}
        return sorted(packages - {""})


def _flag(kind: Kind) -> str:
    return f"--{KINDS[kind].word}"


def _install(distribution: str) -> str:
    return f"pip install ./plugins/{distribution}"


class _Late:
    """A plugin that is imported into this process when one of its components is used."""

    def __init__(self, plugin: Plugin, value: str) -> None:
        self.plugin = plugin
        self.value = value

    @cached_property
    def registrations(self) -> dict[tuple[str, str], Registration]:
        """What it registers, now that it is imported."""
        from vader_core.registration import registered

        try:
            with output_kept_clean():
                module = metadata.EntryPoint(self.plugin.name, self.value, GROUP).load()
                found = registered(module, self.plugin.name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the plugin border: a stranger's code may raise anything
            raise VaderError(f"{self} failed to load: {told(error)}") from error
        return {(component.kind, component.name): component.load() for component in found.components}

    def get(self, kind: str, name: str) -> Registration:
        """What was registered under that kind and name."""
        if (kind, name) not in self.registrations:
            raise VaderError(f"{self} was listed with the {kind} {name!r}, but no longer registers it")
        return self.registrations[kind, name]

    def __str__(self) -> str:
        return f"plugin {self.plugin.name!r} ({self.plugin.distribution} {self.plugin.version})"


def load_registry() -> Registry:
    """Everything that the installed plugins announce; a broken one is recorded and harms nothing else.

    No plugin is imported into this process before one of its components is used.
    """
    registry = Registry()
    for found in listed():
        registry.add_listed(found)
    return registry
