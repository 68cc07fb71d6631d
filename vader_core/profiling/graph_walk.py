"""The backward pass as a walk in Python over autograd's graph.

Autograd's engine insists on a device's streams; a device on paper has none.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
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
    walk_all_backward([loss], [gradient])


def walk_all_backward(
    ends: Tensor | Sequence[Tensor], gradients: Tensor | Sequence[Tensor | None] | None = None
) -> None:
    """What ``torch.autograd.backward(ends, gradients)`` does, in one walk.

    Args:
        ends: With graphs, which may share nodes, or lie within each other.
        gradients: Of each; needed unless it is a scalar.
    """
    ends = [ends] if isinstance(ends, Tensor) else ends
    if gradients is None or isinstance(gradients, Tensor):
        gradients = [gradients] * len(ends)
    _walk(ends, gradients, {})


def walk_grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    **_: Any,
) -> tuple[Tensor | None, ...]:
    """What ``torch.autograd.grad`` does, for inputs within the graph; leaves' ``grad`` is left alone.

    Args:
        outputs: With graphs.
        inputs: What is differentiated for.
        grad_outputs: Of each output; needed unless it is a scalar.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    inputs = [inputs] if isinstance(inputs, Tensor) else inputs
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        grad_outputs = [grad_outputs] * len(outputs)
    caught: dict[Any, dict[int, Tensor]] = {one.grad_fn: {} for one in inputs}
    _walk(outputs, grad_outputs, caught)
    return tuple(caught[one.grad_fn].get(one.output_nr) for one in inputs)


def _walk(
    ends: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    caught: dict[Any, dict[int, Tensor]],
) -> None:
    """Send gradients back until they are in the leaves, or at the nodes of ``caught``, which keeps them."""
    _walks.append(_walk)
    try:
        _send_back(ends, gradients, caught)
    finally:
        _walks.pop()
    while _afterwards and not _walks:
        _afterwards.pop(0)()


def is_walking() -> bool:
    """Whether a backward pass is going on."""
    return bool(_walks)


def _send_back(
    ends: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    caught: dict[Any, dict[int, Tensor]],
) -> None:
    arrived: dict[Any, dict[int, Tensor]] = {}
    for end, gradient in zip(ends, gradients, strict=True):
        if end.grad_fn is None:
            raise RuntimeError("nothing to differentiate: no graph was recorded")
        start = torch.ones_like(end) if gradient is None else gradient
        held = arrived.setdefault(end.grad_fn, {})
        held[end.output_nr] = held[end.output_nr] + start if end.output_nr in held else start
    waiting, order = _arrivals(arrived), count()
    # as the engine does, the latest operation first
    ready = [(-root._sequence_nr(), next(order), root) for root in arrived if root not in waiting]
    heapq.heapify(ready)
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[2]
            if node in caught:
                caught[node].update(arrived.pop(node))
                continue
            sent = _run(node, _hooked(node, arrived.pop(node)))
            for (following, place), value in zip(node.next_functions, sent, strict=False):
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
            del sent, node


def after_the_walk(work: Callable[[], None]) -> None:
    """What the engine's ``queue_callback`` does: ``work`` is done once the walk is over."""
    _afterwards.append(work)


#: One entry for each walk within another.
_walks: list[Any] = []
#: What is to be done once the walk is over.
_afterwards: list[Callable[[], None]] = []
#: Where a node keeps the hooks of its outputs.
_HOOKS = "hooks on paper"


class Handle:
    """Takes a hook back.

    Args:
        hooks: Those of its tensor.
        hook: One of them.
    """

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        """Take the hook back; nothing where that was done."""
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


def register_hook(tensor: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Handle:
    """What ``Tensor.register_hook`` does, for a tensor in a graph: the walk calls ``hook`` with its gradient.

    Hooks on several gradients at once ask the engine, which does not run here: they are left out.

    Args:
        tensor: With a graph.
        hook: Gives another gradient, or nothing.
    """
    hooks: dict[int, list[Any]] = tensor.grad_fn.metadata.setdefault(_HOOKS, {})  # type: ignore[union-attr]
    mine = hooks.setdefault(tensor.output_nr, [])
    if not getattr(hook, "__qualname__", "").startswith("register_multi_grad_hook."):
        mine.append(hook)
    return Handle(mine, hook)


def _hooked(node: Any, arrived: dict[int, Tensor]) -> dict[int, Tensor]:
    """The gradients that arrived, after the hooks of what they are of."""
    for place, hooks in node.metadata.get(_HOOKS, {}).items():
        for hook in hooks:
            if place in arrived and (other := hook(arrived[place])) is not None:
                arrived[place] = other
    return arrived


def _arrivals(roots: Iterable[Any]) -> dict[Any, int]:
    """How many gradients each node of the graph waits for; none where a root waits for nothing."""
    found: dict[Any, int] = {}
    stack = list(roots)
    seen = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            found[node] = found.get(node, 0) + 1
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
    found = node(*given) if callable(node) else node.apply(*given)
    UsedOnce.drop()
    found = found if isinstance(found, tuple) else (found,)
    return found if callable(node) else _of_tensors(node, found)


def _of_tensors(node: Any, found: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Of what a function in Python gives for every argument, the gradients of those that are tensors."""
    if len(found) == len(node.next_functions):
        return found
    wanted = iter([value for value, wants in zip(found, node.needs_input_grad, strict=False) if wants])
    return tuple(None if following is None else next(wanted) for following, _ in node.next_functions)


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
