"""The hooks of the entry-point group ``vader_data``: who else detects scenes, scores, captions or embeds."""

from __future__ import annotations

from typing import Protocol

import pluggy
from pydantic import BaseModel

PROJECT = "vader_data"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """What each hook is given to announce a component with."""

    def __call__(
        self,
        name: str,
        target: str,
        *,
        options: type[BaseModel] | None = None,
        summary: str = "",
        gpu: bool = False,
    ) -> None:
        """Announce a component.

        Args:
            name: Unique among its kind.
            target: ``module:Class``, imported when it is used; called with the options alone.
            options: Pydantic model of its options; ``None`` means there are none.
            summary: One line.
            gpu: It runs a network: an engine gives it a stage of its own and a GPU where there is one.
        """


@hookspec
def register_detectors(register: Register) -> None:
    """Announce scene detectors, :class:`vader_data.contracts.Detector`."""


@hookspec
def register_scorers(register: Register) -> None:
    """Announce scorers of clips, :class:`vader_data.contracts.Scorer`."""


@hookspec
def register_captioners(register: Register) -> None:
    """Announce captioners, :class:`vader_data.contracts.Captioner`."""


@hookspec
def register_embedders(register: Register) -> None:
    """Announce embedders for near duplicates, :class:`vader_data.contracts.Embedder`."""
