"""Networks of which a prediction uses one: the others rest in CPU memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vader_core.performance.offload import Resting


class _Token:
    """Lives as long as a graph."""


class _Held(torch.autograd.Function):
    """The identity; its node in the graph keeps a token alive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: _Token) -> Tensor:
        ctx.token = token
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        """The same gradient."""
        return given, None


class _Expert:
    """One network's frozen weights.

    Adapters stay on the device: they are small, and a frozen one may follow the trained one.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        adapters = {id(value) for name, value in network.named_parameters() if ".lora_" in name}
        trained = {id(value) for value in network.parameters() if value.requires_grad}
        self.resting = Resting([network], device, stay=adapters | trained)
        self.awake: ExitStack | None = None
        self.graphs: weakref.WeakSet[_Token] = weakref.WeakSet()

    def wake(self) -> None:
        """On the device from now on."""
        if self.awake is None:
            self.awake = ExitStack()
            self.awake.enter_context(self.resting.awake())

    def rest(self) -> None:
        """In CPU memory from now on, unless a graph still needs the weights for its backward pass."""
        if self.awake is not None and not self.graphs:
            self.awake.close()
            self.awake = None


class RestingExperts:
    """Keeps on the device the network that predicts, and those that a backward pass still needs.

    Args:
        networks: Of which a prediction uses one; all rest at once.
        device: Where they work.
    """

    def __init__(self, networks: Sequence[nn.Module], device: torch.device) -> None:
        self.experts = [_Expert(network, device) for network in networks]
        for expert, network in zip(self.experts, networks, strict=True):
            network.forward = self._around(expert, network.forward)

    @property
    def bytes(self) -> int:
        """What rests at this moment."""
        return sum(expert.resting.bytes for expert in self.experts if expert.awake is None)

    def _around(self, expert: _Expert, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            for other in self.experts:
                if other is not expert:
                    other.rest()
            expert.wake()
            found = function(*args, **kwargs)
            if not torch.is_grad_enabled():
                return found
            token = _Token()
            expert.graphs.add(token)
            if isinstance(found, Tensor):
                return _Held.apply(found, token)
            first: Tensor = _Held.apply(found[0], token)
            return (first, *found[1:])

        return call
