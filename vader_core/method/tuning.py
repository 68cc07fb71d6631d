"""What learns, as the method sees it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class Tuning(Protocol):
    """What learns: an adapter, or weights of the denoiser.

    :class:`vader_core.lora.tuning.Lora` is one.
    """

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name, in an order that never changes."""

    def off(self) -> AbstractContextManager[None]:
        """Within, the model is the one before tuning."""

    def scaled(self, factor: float) -> AbstractContextManager[None]:
        """Within, the difference to the model before tuning counts ``factor`` times; 0 is :meth:`off`."""

    def dropout(self, seed: int) -> AbstractContextManager[None]:
        """Within, whatever is random in training is on, with random numbers of its own."""

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of the trained tensors, where they are."""

    def using(self, snapshot: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Within, the trained tensors are those of ``snapshot``."""

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Copy ``snapshot`` into the trained tensors."""

    def collected(self, snapshot: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor] | None:
        """What :meth:`save` is to be given, where weights lie in pieces on several processes: all must ask.

        Args:
            snapshot: What is to be saved; the trained tensors by default.
        """

    def save(self, folder: Path, snapshot: Mapping[str, Tensor] | None = None) -> None:
        """Write the trained tensors, or those of ``snapshot``, into ``folder``.

        Raises:
            MachineError: It cannot be written.
        """

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            VaderError: It was made for another model, or cannot be read.
        """


class Untuned:
    """A model in which nothing learns."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Nothing."""
        return {}

    def off(self) -> AbstractContextManager[None]:
        """The model as it is."""
        return nullcontext()

    def scaled(self, factor: float) -> AbstractContextManager[None]:
        """The model as it is."""
        return nullcontext()

    def dropout(self, seed: int) -> AbstractContextManager[None]:
        """The model as it is."""
        return nullcontext()

    def snapshot(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def using(self, snapshot: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """The model as it is."""
        return nullcontext()

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Nothing to copy."""

    def collected(self, snapshot: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor] | None:
        """Nothing to collect."""
        return snapshot

    def save(self, folder: Path, snapshot: Mapping[str, Tensor] | None = None) -> None:
        """Nothing to write."""

    def load(self, folder: Path) -> None:
        """Nothing to read."""
