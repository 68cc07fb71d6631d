"""The backward pass as a walk in Python over autograd's graph.

Autograd's engine insists on a device's streams; a device on paper has none.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from itertools import count
from typing import Any, ClassVar

import torch
from torch import Tensor


def walk_backward(loss: Tensor, gradient: Tensor | None = None) -> None:
    """What ``loss.backward(gradient)`` does: gradients are added up in the leaves' ``grad``.

    Args:
        loss: With a graph.
        gradient: Of ``loss``; needed unless it is a scalar.
    """
    root = loss.grad_fn
    if root is None:
        raise RuntimeError("nothing to differentiate: no graph was recorded")
    waiting = _arrivals(root)
    start = torch.ones_like(loss) if gradient is None else gradient
    arrived: dict[Any, dict[int, Tensor]] = {root: {loss.output_nr: start}}
    order = count()
    # as the engine does, the latest operation first
    ready = [(-root._sequence_nr(), next(order), root)]
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[2]
            gradients = _run(node, arrived.pop(node))
            for (following, place), value in zip(node.next_functions, gradients, strict=False):
                if following is None:
                    continue
                held = arrived.setdefault(following, {})
                if value is not None:
                    value = _fitted(value, following._input_metadata[place])
                    held[place] = held[place] + value if place in held else value
                waiting[following] -= 1
                if not waiting[following]:
                    del waiting[following]
                    heapq.heappush(ready, (-following._sequence_nr(), next(order), following))
            del gradients, node


def _arrivals(root: Any) -> dict[Any, int]:
    """How many gradients each node of the graph waits for."""
    found: dict[Any, int] = defaultdict(int)
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            found[node] += 1
            if node not in seen:
                seen.add(node)
                stack.append(node)
    return found


def _fitted(gradient: Tensor, wanted: Any) -> Tensor:
    """Formulas leave it to the engine to sum over broadcast axes and to cast."""
    return gradient.sum_to_size(wanted.shape).to(wanted.dtype)


def _run(node: Any, arrived: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients that ``node`` sends on."""
    if not arrived:
        return (None,) * len(node.next_functions)
    if hasattr(node, "variable"):  # a leaf
        leaf = node.variable
        leaf.grad = arrived[0] if leaf.grad is None else leaf.grad + arrived[0]
        return ()
    given = [arrived.pop(place, None) for place in range(len(node._input_metadata))]
    call = node if callable(node) else node.apply
    found = call(*given)
    UsedOnce.drop()
    return found if isinstance(found, tuple) else (found,)


class UsedOnce:
    """Saved tensors that are let go of once a node has used them, as the engine does."""

    _opened: ClassVar[list[UsedOnce]] = []

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor

    def open(self) -> Tensor:
        """The tensor."""
        assert self.tensor is not None, "the graph was walked twice"
        self._opened.append(self)
        return self.tensor

    @classmethod
    def drop(cls) -> None:
        """Let go of what has been opened."""
        for held in cls._opened:
            held.tensor = None
        cls._opened.clear()

    @classmethod
    def hooks(cls) -> torch.autograd.graph.saved_tensors_hooks:
        """The context in which graphs are recorded so."""
        return torch.autograd.graph.saved_tensors_hooks(cls, cls.open)
