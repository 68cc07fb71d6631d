"""The registry: entry points loaded one by one, names to components, and every look-up error."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, Literal

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from pydantic import BaseModel, ConfigDict, ValidationError

from vader_core import __version__, hookspecs
from vader_core.errors import VaderError, did_you_mean, near
from vader_core.hookspecs import PROJECT, Factory
from vader_core.values import not_finite, read_options
from vader_core.weights import WeightFile

Kind = Literal["backbone", "sampler", "reward", "prompt source", "objective"]

KINDS: tuple[Kind, ...] = ("backbone", "sampler", "reward", "prompt source", "objective")
_HOOKS: dict[Kind, str] = {
    "backbone": "register_backbones",
    "sampler": "register_samplers",
    "reward": "register_rewards",
    "prompt source": "register_prompt_sources",
    "objective": "register_objectives",
}
_NAME = re.compile(r"[a-z][a-z0-9_]*")

#: Components of the first-party plugins, so that an uninstalled one can be named with the line that installs
#: it.
FIRST_PARTY: dict[str, tuple[str, ...]] = {
    "vader-demo": ("demo", "demo_aesthetic", "demo_alignment", "demo_action"),
    "vader-rewards": (
        "aesthetic",
        "hps",
        "pick_score",
        "aesthetic_hps",
        "actpred",
        "object_detection",
        "compression",
        "rainy",
        "snowy",
        "vjepa",
        "viclip",
        "jpeg_size",
    ),
    "vader-videocrafter": ("videocrafter", "ddim_videocrafter"),
    "vader-opensora": ("opensora", "rflow"),
    "vader-modelscope": ("modelscope",),
    "vader-svd": ("svd", "svd_demo_images"),
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
        factory: Makes it.
        config: Pydantic model of its options.
        summary: One line.
        weights: The files it wants.
        plugin: Entry point that registered it.
        package: Python package of the plugin, where its recipes lie.
    """

    kind: Kind
    name: str
    factory: Factory
    config: type[BaseModel]
    summary: str
    weights: tuple[WeightFile, ...]
    plugin: str
    package: str

    def options(self, given: dict[str, Any]) -> BaseModel:
        """The checked options.

        Raises:
            VaderError: An unknown option (with the near name) or a bad value.
        """
        return checked(self.config, given, f"{self.kind} {self.name!r}")

    def make(self, given: dict[str, Any], *, device: object, dtype: object) -> Any:
        """The component itself, from unchecked options."""
        return self.factory(self.options(given), device=device, dtype=dtype)


@dataclass(frozen=True)
class Announced:
    """Something a plugin announced by ``module:attribute``: a command or a LoRA format."""

    name: str
    target: str
    summary: str
    plugin: str

    def resolve(self) -> Any:
        """Import the target."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Plugin:
    """A plugin that was found.

    Args:
        name: Entry point name.
        distribution: Distribution that ships it.
        version: Of the distribution.
        module: Module the entry point names.
        error: Why it could not be used, or ``None``.
        trace: The traceback of that, for ``--debug``.
    """

    name: str
    distribution: str
    version: str
    module: str
    error: str | None = None
    trace: str = ""


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

    def add(self, module: ModuleType, plugin: Plugin) -> None:
        """Call one plugin module's hooks; a plugin with an error is recorded and adds nothing."""
        staged: list[Component] = []
        commands: list[Announced] = []
        formats: list[Announced] = []
        try:
            manager = pluggy.PluginManager(PROJECT)
            manager.add_hookspecs(hookspecs)
            manager.register(module, name=plugin.name)
            _check_hook_names(module)
            manager.check_pending()
            package = module.__name__.rpartition(".")[0] or module.__name__
            for kind, hook in _HOOKS.items():
                getattr(manager.hook, hook)(register=_collector(staged, kind, plugin.name, package))
            manager.hook.register_commands(register=_announcer(commands, plugin.name))
            manager.hook.register_lora_formats(register=_announcer(formats, plugin.name))
        except (Exception, SystemExit) as error:  # the plugin border: a stranger's code may raise anything
            self.plugins.append(_failed(plugin, error))
            return
        self.plugins.append(plugin)
        for component in staged:
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
        installed = ", ".join(
            f"{found.name} ({found.plugin})" for found in sorted(table.values(), key=_by_name)
        )
        message = f"unknown {kind} {name!r}; installed: {installed or 'none'}"
        for distribution, names in FIRST_PARTY.items():
            if name in names:
                install = f"pip install ./plugins/{distribution}"
                return f"{message}\n{kind} {name!r} comes with {distribution}: {install}"
        close = near(name, table)
        elsewhere = [other for names in FIRST_PARTY.values() for other in names if other not in table]
        far = near(name, elsewhere)
        if close:
            message += f"\ndid you mean {close[0]!r}?"
        elif far:
            distribution = next(dist for dist, names in FIRST_PARTY.items() if far[0] in names)
            install = f"pip install ./plugins/{distribution}"
            message += f"\ndid you mean {far[0]!r}? It comes with {distribution}: {install}"
        for plugin in self.broken():
            message += f"\nplugin {plugin.name!r} ({plugin.distribution}) failed to load: {plugin.error}"
        return message

    def broken(self) -> list[Plugin]:
        """Plugins that could not be used."""
        return [plugin for plugin in self.plugins if plugin.error]

    def recipe_packages(self) -> list[str]:
        """Packages that may carry a ``recipes`` folder, one a plugin."""
        return sorted({plugin.module.rpartition(".")[0] for plugin in self.plugins if not plugin.error})


def _by_name(component: Component) -> str:
    return component.name


def _check_hook_names(module: ModuleType) -> None:
    known = {*_HOOKS.values(), "register_commands", "register_lora_formats"}
    for name, value in vars(module).items():
        misspelt = name not in known and hasattr(value, f"{PROJECT}_impl")
        if misspelt:
            raise VaderError(
                f"unknown hook {name!r}{did_you_mean(name, known)} (hooks: {', '.join(sorted(known))})"
            )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise VaderError(
            f"{name!r} is not a name: use lower-case letters, digits and _, beginning with a letter"
        )


def _collector(staged: list[Component], kind: Kind, plugin: str, package: str) -> hookspecs.Register:
    def register(
        name: str,
        factory: Factory,
        *,
        config: type[BaseModel] | None = None,
        summary: str = "",
        weights: tuple[WeightFile, ...] = (),
    ) -> None:
        _check_name(name)
        staged.append(
            Component(kind, name, factory, config or NoOptions, summary, tuple(weights), plugin, package)
        )

    return register


def _announcer(announced: list[Announced], plugin: str) -> hookspecs.RegisterCommand:
    def register(name: str, target: str, *, summary: str = "") -> None:
        if ":" not in target:
            raise VaderError(f"{name!r}: target {target!r} must be written module:attribute")
        announced.append(Announced(name, target, summary, plugin))

    return register


def _failed(plugin: Plugin, error: BaseException) -> Plugin:
    message = str(error) if isinstance(error, VaderError) else f"{type(error).__name__}: {error}"
    return Plugin(
        plugin.name,
        plugin.distribution,
        plugin.version,
        plugin.module,
        message,
        "".join(traceback.format_exception(error)),
    )


def _check_core_version(distribution: metadata.Distribution) -> None:
    for line in distribution.requires or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.name.replace("_", "-").lower() != "vader-core":
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            raise VaderError(
                f"it needs vader-core{requirement.specifier}, but {__version__} is installed: "
                f"upgrade {distribution.name} or vader-core"
            )


def _discover() -> Iterable[tuple[metadata.EntryPoint, metadata.Distribution | None]]:
    seen: set[tuple[str, str]] = set()
    for point in metadata.entry_points(group=PROJECT):
        if (point.name, point.value) not in seen:  # an editable install can be found twice
            seen.add((point.name, point.value))
            yield point, point.dist


def load_registry() -> Registry:
    """Load every installed plugin, each on its own: a broken one is recorded and harms nothing else."""
    registry = Registry()
    for point, distribution in sorted(_discover(), key=lambda found: found[0].name):
        plugin = Plugin(
            name=point.name,
            distribution=distribution.name if distribution else "?",
            version=distribution.version if distribution else "?",
            module=point.value.partition(":")[0],
        )
        try:
            if distribution is not None and plugin.distribution != "vader-core":
                _check_core_version(distribution)
            module = point.load()
        except (Exception, SystemExit) as error:  # the plugin border
            registry.plugins.append(_failed(plugin, error))
            continue
        registry.add(module, plugin)
    return registry


def checked(model: type[BaseModel], given: dict[str, Any], where: str) -> Any:
    """``model(**given)``, with pydantic's complaints in one message.

    Args:
        model: The option model.
        given: Option values by name.
        where: What they belong to, e.g. ``backbone 'opensora'``; begins the message.

    Raises:
        VaderError: Unknown options with their near names, bad values with what is allowed.
    """
    names = [*model.model_fields, *(field.alias for field in model.model_fields.values() if field.alias)]
    unknown = [name for name in given if name not in names]
    if unknown and model.model_config.get("extra") != "allow":
        hints = ", ".join(f"{name!r}{did_you_mean(name, names)}" for name in unknown)
        raise VaderError(
            f"{where} has no option {hints} (options: {', '.join(model.model_fields) or 'none'})"
        )
    try:
        found = model.model_validate(read_options(model, given))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"]) or "options"
            if problem["type"] == "missing":
                lines.append(f"{where} needs the option {place!r}")
            else:
                lines.append(f"{where}: {place}={problem['input']!r} is not allowed: {problem['msg']}")
        raise VaderError("\n".join(lines)) from error
    place = not_finite(found)
    if place is not None:
        raise VaderError(f"{where}: {place} is not a finite number")
    return found
