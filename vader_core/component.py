"""What a plugin announces: components of five kinds, and commands and LoRA formats by their place."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from vader_core.errors import VaderError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vader_core.hookspecs import Factory
    from vader_core.weights import WeightFile

Kind = Literal["backbone", "sampler", "reward", "prompt source", "objective"]


@dataclass(frozen=True)
class KindFacts:
    """One row of the table of kinds.

    Args:
        word: What the command line calls it: ``vader check WORD NAME``, ``--WORD NAME``.
        hook: The hook that announces it.
        contract: Its abstract class, as ``module:Class``.
        clauses: Its clauses in the conformance kit, as ``module:NAME``.
        key: Where a run's options of it stand, for ``-o``.
    """

    word: str
    hook: str
    contract: str
    clauses: str
    key: str


#: Every kind of component. Whoever needs to know a kind asks here.
KINDS: dict[Kind, KindFacts] = {
    "backbone": KindFacts(
        "backbone",
        "register_backbones",
        "vader_core.backbone:Backbone",
        "vader_core.testing.backbones:BACKBONE",
        "backbone.{option}",
    ),
    "sampler": KindFacts(
        "sampler",
        "register_samplers",
        "vader_core.sampler:Sampler",
        "vader_core.testing.samplers:SAMPLER",
        "sampler.{option}",
    ),
    "reward": KindFacts(
        "reward",
        "register_rewards",
        "vader_core.reward:Reward",
        "vader_core.testing.rewards:REWARD",
        "reward.{name}.{option}",
    ),
    "prompt source": KindFacts(
        "prompts",
        "register_prompt_sources",
        "vader_core.prompts:PromptSource",
        "vader_core.testing.prompt_sources:PROMPT_SOURCE",
        "prompts.{option}",
    ),
    "objective": KindFacts(
        "objective",
        "register_objectives",
        "vader_core.method.objective:Objective",
        "vader_core.testing.objectives:OBJECTIVE",
        "objective.{name}.{option}",
    ),
}


def kind_called(word: str) -> Kind:
    """The kind that the command line calls ``word``.

    >>> kind_called("prompts")
    'prompt source'
    """
    return next(kind for kind, facts in KINDS.items() if facts.word == word)


def resolved(target: str) -> Any:
    """What ``module:attribute`` names; whatever its import prints goes to standard error.

    Raises:
        VaderError: The module or the attribute is not there.
    """
    place, _, attribute = target.partition(":")
    with output_kept_clean():
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise VaderError(f"{target}: it cannot be imported: {error}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise VaderError(f"{target}: {place} has no {attribute!r}") from None


@contextmanager
def output_kept_clean() -> Iterator[None]:
    """Within, whatever is written to standard output goes to standard error: a plugin's import may print."""
    streams = sys.stdout, sys.stderr
    sys.stdout.flush()
    held = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        os.dup2(held, 1)
        os.close(held)


@dataclass(frozen=True)
class Registration:
    """What ``register`` was given beside the name and the summary.

    Args:
        factory: Makes the component: a function, or ``module:Class``.
        config: Pydantic model of its options; ``None`` is the class's own ``Options``.
        weights: The files it wants.
    """

    factory: Factory | str
    config: type[BaseModel] | None = None
    weights: tuple[WeightFile, ...] = ()


@dataclass(frozen=True)
class Component:
    """A registered component.

    Listing needs kind, name and summary alone; the plugin is imported when more is asked for.

    Args:
        kind: What it is.
        name: Its name among its kind.
        summary: One line.
        plugin: Entry point that registered it.
        module: Module of the plugin.
        load: Gives the rest; imports the plugin where that was not done yet.
    """

    kind: Kind
    name: str
    summary: str
    plugin: str
    module: str
    load: Callable[[], Registration]

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    @property
    def package(self) -> str:
        """Python package of the plugin, where its recipes lie."""
        return self.module.rpartition(".")[0] or self.module

    @property
    def weights(self) -> tuple[WeightFile, ...]:
        """The files it wants."""
        return self.load().weights

    @cached_property
    def factory(self) -> Factory:
        """Makes the component; of ``module:Class`` the class, imported now."""
        factory = self.load().factory
        if not isinstance(factory, str):
            return factory
        found: Factory = resolved(factory)
        if not callable(found):
            raise VaderError(f"{self} (plugin {self.plugin!r}): {factory} cannot be called")
        return found

    @cached_property
    def config(self) -> type[BaseModel]:
        """Pydantic model of its options."""
        from pydantic import BaseModel

        found = self.load().config
        if found is None and isinstance(self.load().factory, str):
            found = getattr(self.factory, "Options", None)
        if found is None:
            return no_options()
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise VaderError(f"{self} (plugin {self.plugin!r}): its options {found!r} are no pydantic model")
        return found

    def options(self, given: dict[str, Any]) -> BaseModel:
        """The checked options.

        Raises:
            VaderError: An unknown option (with the near name) or a bad value.
        """
        made: BaseModel = checked(self.config, given, str(self))
        return made

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
        """Import the target.

        Raises:
            VaderError: It cannot be imported, whatever it raises; names the plugin.
        """
        try:
            return resolved(self.target)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the plugin border: a stranger's code may raise anything
            raise VaderError(
                f"{self.name!r} of plugin {self.plugin!r} cannot be used: {told(error)}"
            ) from error


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


def told(error: BaseException) -> str:
    """An error in one line, even where its own ``__str__`` fails.

    >>> told(ImportError("no module named 'av'"))
    "ImportError: no module named 'av'"
    """
    try:
        message = str.__str__(str(error))
    except BaseException:
        message = "(its message cannot be read)"
    message = one_line(message)
    if isinstance(error, VaderError):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def one_line(text: str) -> str:
    r"""``text`` in one line of printable characters, at most 600 of them.

    >>> one_line("a\nb\x1b[31m")
    'a b[31m'
    """
    printable = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return printable if len(printable) <= 600 else f"{printable[:599]}…"


_NO_OPTIONS: list[type[BaseModel]] = []


def no_options() -> type[BaseModel]:
    """The options of a component that has none."""
    if not _NO_OPTIONS:
        from pydantic import ConfigDict, create_model

        _NO_OPTIONS.append(create_model("NoOptions", __config__=ConfigDict(extra="forbid")))
    return _NO_OPTIONS[0]


def checked(model: type[BaseModel], given: dict[str, Any], where: str) -> Any:
    """``model(**given)``, with pydantic's complaints in one message.

    Args:
        model: The option model.
        given: Option values by name.
        where: What they belong to, e.g. ``backbone 'opensora'``; begins the message.

    Raises:
        VaderError: Unknown options with their near names, bad values with what is allowed.
    """
    from pydantic import ValidationError

    from vader_core.values import not_finite, read_options

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
    infinite = not_finite(found)
    if infinite is not None:
        raise VaderError(f"{where}: {infinite} is not a finite number")
    return found
