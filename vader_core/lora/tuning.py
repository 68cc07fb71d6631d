"""What learns, as LoRA: named adapters in one denoiser, one of them trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.lora.adapter import (
    Attached,
    LoraSettings,
    adapter_dropout,
    adapter_of,
    adapter_parameters,
    attach_adapter,
    attach_lora,
    load_adapter,
    lora_layers,
    lora_scale,
    save_adapter,
    set_adapter,
)
from vader_core.lora.beside import attach_beside, set_scale
from vader_core.lora.formats import Adapter
from vader_core.lora.layers import ADAPTER


class Lora:
    """Adapters in a denoiser: the trained one, and frozen ones beside it.

    Args:
        denoiser: The network; everything but the trained adapter stays frozen.
        settings: Shape of a fresh adapter.
        start: A read adapter to start from, with its own shape, in place of a fresh one.
        what: What ``start`` is called in messages.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        settings: LoraSettings | None = None,
        *,
        start: Adapter | None = None,
        what: str = "--lora",
    ) -> None:
        self.denoiser = denoiser
        self.attached: Attached
        if start is not None:
            self.attached = attach_adapter(denoiser, start, what=what)
        else:
            self.attached = attach_lora(denoiser, settings or LoraSettings())
        #: Frozen adapters by name, with the scale that they count with.
        self.beside: dict[str, float] = {}
        #: The model that the adapter belongs to, as files name it.
        self.base: str | None = None

    # -- what is trained ---------------------------------------------------------------------------------

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained adapter's tensors, float32 (float64 in a float64 model), by peft's names."""
        return adapter_parameters(self.denoiser)

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of the trained tensors, where they are."""
        return {name: value.detach().clone() for name, value in self.parameters().items()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Copy ``snapshot`` into the trained tensors."""
        for name, parameter in self.parameters().items():
            parameter.copy_(snapshot[name])

    @contextmanager
    def using(self, snapshot: Mapping[str, Tensor]) -> Iterator[None]:
        """Within, the trained tensors are those of ``snapshot``."""
        trained = self.snapshot()
        self.restore(snapshot)
        try:
            yield
        finally:
            self.restore(trained)

    # -- contexts ----------------------------------------------------------------------------------------

    def off(self) -> AbstractContextManager[None]:
        """Within, the model is the one before tuning; adapters beside the trained one stay as they are."""
        return self.scaled(0.0)

    def scaled(self, factor: float) -> AbstractContextManager[None]:
        """Within, the trained adapter counts ``factor`` times; 0 skips its arithmetic."""
        return lora_scale(self.denoiser, factor)

    def dropout(self, seed: int) -> AbstractContextManager[None]:
        """Within, the trained adapter's dropout is on, with random numbers of its own."""
        return adapter_dropout(self.denoiser, seed)

    # -- adapters beside the trained one -----------------------------------------------------------------

    def add(self, name: str, adapter: Adapter, scale: float = 1.0, *, what: str = "--lora") -> None:
        """Put a frozen adapter beside the trained one.

        Args:
            name: Any but the trained one's; ``[a-z][a-z0-9_]*``.
            adapter: Read from a file.
            scale: How often it counts; 0 is off.
            what: What it is called in messages.

        Raises:
            VaderError: The name is taken, or the adapter was made for another model.
        """
        if name == ADAPTER or name in self.beside:
            raise VaderError(f"{what}: an adapter named {name!r} is there already")
        attach_beside(self.denoiser, name, adapter, what=what)
        self.beside[name] = 1.0
        self.set_scale(name, scale)

    def set_strength(self, scale: float) -> None:
        """Let the trained adapter count ``scale`` times from now on."""
        for _, layer in lora_layers(self.denoiser):
            layer.scaling[ADAPTER] = scale * layer.alphas[ADAPTER] / layer.ranks[ADAPTER]

    def set_scale(self, name: str, scale: float) -> None:
        """Let the frozen adapter ``name`` count ``scale`` times from now on; 0 is off."""
        set_scale(self.denoiser, name, scale)
        self.beside[name] = scale

    @contextmanager
    def with_scale(self, name: str, scale: float) -> Iterator[None]:
        """Within, the frozen adapter ``name`` counts ``scale`` times."""
        before = self.beside[name]
        self.set_scale(name, scale)
        try:
            yield
        finally:
            self.set_scale(name, before)

    # -- files -------------------------------------------------------------------------------------------

    def adapter(self, snapshot: Mapping[str, Tensor] | None = None) -> Adapter:
        """The trained adapter, or ``snapshot`` in its place, on the CPU."""
        own = adapter_of(self.denoiser)
        if snapshot is None:
            return own
        return Adapter({name: value.cpu().clone() for name, value in snapshot.items()}, own.rank, own.alpha)

    def collected(self, snapshot: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor] | None:
        """The snapshot itself: an adapter is whole on every process."""
        return snapshot

    def save(self, folder: Path, snapshot: Mapping[str, Tensor] | None = None) -> None:
        """Write the trained adapter, or ``snapshot``, the way peft does."""
        save_adapter(self.adapter(snapshot), folder, self.base)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            VaderError: Names, shapes or scaling do not fit.
        """
        set_adapter(self.denoiser, load_adapter(folder), what=str(folder))
