"""The moving average of what learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from vader_core.method.tuning import Tuning
from vader_core.parallel.whole import piece_like


class Average:
    """An exponential moving average of the trained tensors, which is then what is evaluated and kept.

    Args:
        tuning: What learns.
        decay: Share of the average that stays at each step; ``None`` keeps no average.
    """

    def __init__(self, tuning: Tuning, decay: float | None) -> None:
        self.tuning = tuning
        self.decay = decay
        self.tensors: dict[str, Tensor] | None = None if decay is None else tuning.snapshot()

    @torch.no_grad()
    def update(self) -> None:
        """Follow the trained tensors by one step."""
        if self.tensors is None or self.decay is None:
            return
        for name, value in self.tuning.parameters().items():
            self.tensors[name].lerp_(value.detach(), 1.0 - self.decay)

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """Within, the averaged tensors are in the model, where an average is kept."""
        if self.tensors is None:
            yield
            return
        with self.tuning.using(self.tensors):
            yield

    def best_known(self) -> dict[str, Tensor]:
        """Copies of what would be kept now: the average, or the trained tensors."""
        if self.tensors is None:
            return self.tuning.snapshot()
        return {name: value.clone() for name, value in self.tensors.items()}

    def set(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin again from ``tensors``, where an average is kept."""
        if self.tensors is not None:
            self.tensors = {
                name: piece_like(tensors[name], value).to(value.device, copy=True)
                for name, value in self.tensors.items()
            }
