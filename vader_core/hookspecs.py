"""The hooks a plugin may implement, each called once while the registry is filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vader_core.weights import WeightFile

PROJECT = "vader"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Factory(Protocol):
    """Makes a component; the heavy imports happen in here."""

    def __call__(self, config: Any, *, device: Any, dtype: Any) -> Any:
        """The component, from its option model, for a ``torch.device`` and a ``torch.dtype``."""


class Register(Protocol):
    """What a ``register_*`` hook is given to announce a component with."""

    def __call__(
        self,
        name: str,
        factory: Factory | str,
        *,
        config: type[BaseModel] | None = None,
        summary: str = "",
        weights: tuple[WeightFile, ...] = (),
    ) -> None:
        """Announce a component.

        Args:
            name: ``[a-z][a-z0-9_]*``, unique among its kind.
            factory: ``factory(config, *, device, dtype)``, which imports what is heavy when called; or
                ``"module:Class"``, imported when the component is made or its options are asked for, whose
                constructor takes the same arguments.
            config: Pydantic model of the component's options. ``None`` is the model ``Options`` nested in the
                class of ``"module:Class"``; where there is none, and for a function, it means no options.
            summary: One line for ``vader plugins``.
            weights: The files it wants, for ``vader weights``.
        """


class RegisterCommand(Protocol):
    """What ``register_commands`` is given."""

    def __call__(self, name: str, target: str, *, summary: str = "") -> None:
        """Announce the click command at ``target`` (``module:attribute``); imported only when called."""


class RegisterLoraFormat(Protocol):
    """What ``register_lora_formats`` is given."""

    def __call__(self, name: str, target: str, *, summary: str = "") -> None:
        """Announce the :class:`~vader_core.lora.formats.LoraFormat` at ``target`` (``module:attribute``)."""


@hookspec
def register_backbones(register: Register) -> None:
    """Announce video diffusion models; the factory returns a :class:`vader_core.backbone.Backbone`."""


@hookspec
def register_samplers(register: Register) -> None:
    """Announce samplers; the factory returns a :class:`vader_core.sampler.Sampler`."""


@hookspec
def register_rewards(register: Register) -> None:
    """Announce rewards; the factory returns a :class:`vader_core.reward.Reward`."""


@hookspec
def register_prompt_sources(register: Register) -> None:
    """Announce prompt sources; the factory returns a :class:`vader_core.prompts.PromptSource`."""


@hookspec
def register_objectives(register: Register) -> None:
    """Announce objectives; the factory returns a :class:`vader_core.method.objective.Objective`."""


@hookspec
def register_commands(register: RegisterCommand) -> None:
    """Announce further commands of ``vader``."""


@hookspec
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Announce foreign LoRA file formats for ``--lora`` and ``vader lora convert``."""
