"""CUDA graphs: one launch instead of thousands, for calls without a gradient and for those with one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

#: Calls before a capture: library handles, kernel choices and compilation happen outside the graph.
WARM_UP = 2


class GraphedForward:
    """A module's forward pass replayed from CUDA graphs, while it is on and autograd records nothing.

    One graph for each combination of shapes, other arguments and adapter state. The weights are read where
    they lie, so updates in place are seen.

    Args:
        module: Its ``forward`` is replaced.
        state: Whatever else the result depends on; part of the key.
        gradients: Replay calls that autograd records too, and their backward pass.
    """

    #: Validation and sampling use it too.
    exact = True
    #: What it holds beside the model.
    holds = "CUDA graphs"

    def __init__(self, module: nn.Module, state: Callable[[], Any], *, gradients: bool = False) -> None:
        self.plain = module.forward
        self.state = state
        self.gradients = gradients
        self._module = module
        self._graphs: dict[Any, _Graph] = {}
        self._slots: list[_Slot] = []
        self._pool: Any = None
        self._active = False
        module.forward = self

    @property
    def bytes(self) -> int:
        """Unknown before a graph is captured: nothing."""
        return 0

    def on(self) -> None:
        """Replay from now on."""
        self._active = True

    def off(self) -> None:
        """Run the module itself from now on."""
        self._active = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output; a copy where it came from a graph."""
        leaves, spec = tree_flatten((args, kwargs))
        if not _on_device(leaves):
            return self.plain(*args, **kwargs)
        if torch.is_grad_enabled():
            return self._with_gradient(leaves, spec)
        if not self._active:
            return self.plain(*args, **kwargs)
        key = (spec, tuple(_signature(leaf) for leaf in leaves), self.state())
        if key not in self._graphs:
            if self._pool is None:
                self._pool = graph_pool()
            self._graphs[key] = _Graph(self.plain, leaves, spec, self._pool)
        return self._graphs[key](leaves)

    def _with_gradient(self, leaves: list[Any], spec: Any) -> Any:
        learned = {name: one for name, one in self._module.named_parameters() if one.requires_grad}
        wanted = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        if not (self.gradients and (learned or wanted)):
            args, kwargs = tree_unflatten(leaves, spec)
            return self.plain(*args, **kwargs)
        key = (spec, tuple(_signature(leaf, gradient=True) for leaf in leaves), self.state())
        slot = next((slot for slot in self._slots if not slot.awaited), None)
        if slot is None:  # none yet, or each one's backward pass is still to come
            slot = _Slot()
            self._slots.append(slot)
        if key not in slot.graphs:
            slot.graphs[key] = _RecordedGraph(self._module, self.plain, leaves, spec, learned, slot)
        graph = slot.graphs[key]
        found = _Replayed.apply(graph, leaves, *wanted, *learned.values())
        return tree_unflatten(list(found), graph.spec)


class _Graph:
    def __init__(self, function: Callable[..., Any], leaves: list[Any], spec: Any, pool: Any) -> None:
        self.inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(self.inputs, spec)

        def call() -> None:
            self.outputs, self.spec = tree_flatten(function(*args, **kwargs))

        with beside():
            for _ in range(WARM_UP):
                call()
        self._replay = captured(call, pool)

    def __call__(self, leaves: list[Any]) -> Any:
        _fill(self.inputs, leaves)
        self._replay()
        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.outputs]
        return tree_unflatten(copies, self.spec)


class _Slot:
    """Room for one call whose backward pass is still to come.

    Its graphs, one per shape, share their memory: none is replayed before the last one's call was sent back
    or forgotten, and what leaves them is copied.
    """

    def __init__(self) -> None:
        self.pool = graph_pool()
        self.graphs: dict[Any, _RecordedGraph] = {}
        self.ticket: weakref.ref[_Ticket] | None = None

    @property
    def awaited(self) -> bool:
        """Whether a backward pass of the last call may still come."""
        return self.ticket is not None and self.ticket() is not None


class _RecordedGraph:
    """A call and its backward pass, a graph each; what the first saves for the second stays in their memory.

    What learns stands in it as leaves of its own on the same storage: autograd ties a leaf to the stream on
    which it was first used, and that must be the one that captures.
    """

    def __init__(
        self,
        module: nn.Module,
        function: Callable[..., Any],
        leaves: list[Any],
        spec: Any,
        learned: Mapping[str, Tensor],
        slot: _Slot,
    ) -> None:
        self._slot = slot
        self.inputs = [_standing(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._around, self._learned = _Around(module, function), learned
        self._args, self._kwargs = tree_unflatten(self.inputs, spec)
        self._live: tuple[list[Tensor], list[Tensor]] | None = None
        with _without_cast_cache():
            with beside():
                for _ in range(WARM_UP):
                    self._call()
                    self._given = [torch.zeros_like(one) for one in self._outputs]
                    self._back()
            self._forward = captured(self._call, slot.pool)
            self._given = [torch.zeros_like(one) for one in self._outputs]
            self._backward = captured(self._back, slot.pool)

    def _call(self) -> None:
        own = {name: one.detach().requires_grad_() for name, one in self._learned.items()}
        given = {f"module.{name}": one for name, one in own.items()}
        output = functional_call(self._around, given, self._args, self._kwargs)
        outputs, self.spec = tree_flatten(output)
        inputs = [one for one in self.inputs if isinstance(one, Tensor) and one.requires_grad]
        self._live = outputs, [*inputs, *own.values()]
        self._outputs = [one.detach() for one in outputs]

    def _back(self) -> None:
        assert self._live is not None
        outputs, sources = self._live
        self._live = None  # the graph's own leaves and nodes are not needed again
        self._gradients = torch.autograd.grad(outputs, sources, self._given, allow_unused=True)

    def replay(self, leaves: list[Any], ticket: _Ticket) -> tuple[Tensor, ...]:
        """The outputs."""
        self._slot.ticket = weakref.ref(ticket)
        with torch.no_grad():
            _fill(self.inputs, leaves)
        self._forward()
        return tuple(one.clone() for one in self._outputs)

    def send_back(self, given: Sequence[Tensor], ticket: _Ticket) -> list[Tensor | None]:
        """The gradients of what was given and of what learns."""
        if self._slot.ticket is None or self._slot.ticket() is not ticket:
            raise RuntimeError("a captured call is sent back once: what it saved is gone")
        self._slot.ticket = None
        for held, new in zip(self._given, given, strict=True):
            held.copy_(new)
        self._backward()
        found = [one for one in self._gradients if one is not None]
        copies = [torch.empty_like(one) for one in found]
        torch._foreach_copy_(copies, found)
        each = iter(copies)
        return [None if one is None else next(each) for one in self._gradients]


class _Ticket:
    """Lives as long as the graph of one call."""


class _Replayed(torch.autograd.Function):
    """A recorded call."""

    @staticmethod
    def forward(ctx: Any, graph: _RecordedGraph, leaves: list[Any], *sources: Tensor) -> tuple[Tensor, ...]:
        """The outputs, copied."""
        ctx.graph, ctx.ticket = graph, _Ticket()
        return graph.replay(leaves, ctx.ticket)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> Any:
        """Of the sources."""
        return None, None, *ctx.graph.send_back(given, ctx.ticket)


class _Around(nn.Module):
    """A module whose weights can be swapped for a call of a function that reads them."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self._function = module, function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def _on_device(leaves: list[Any]) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in leaves)


def graph_pool() -> Any:
    """Memory of a graph's own."""
    return torch.cuda.graph_pool_handle()


def captured(function: Callable[[], None], pool: Any) -> Callable[[], None]:
    """What ``function`` does on the device, as one launch; its Python runs once, after a run :func:`beside`.

    Args:
        function: Reads and writes tensors where they lie.
        pool: From :func:`graph_pool`: where its own tensors are.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on allocating; the backward pass runs in one of torch's own.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        function()
    replay: Callable[[], None] = graph.replay
    return replay


@contextmanager
def beside() -> Iterator[None]:
    """Within, work goes to a stream of its own, as it does in a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _without_cast_cache() -> Iterator[None]:
    """Within, autocast keeps no cast weight: one that was made outside would be replayed as it was then."""
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _fill(inputs: list[Any], leaves: list[Any]) -> None:
    for held, given in zip(inputs, leaves, strict=True):
        if isinstance(held, Tensor):
            held.copy_(given)


def _standing(leaf: Tensor) -> Tensor:
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def _signature(leaf: Any, *, gradient: bool = False) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return tuple(leaf.shape), leaf.dtype, leaf.device, gradient and leaf.requires_grad
