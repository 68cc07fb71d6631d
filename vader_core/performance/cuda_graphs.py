"""CUDA graphs for the denoiser's no-graph calls: one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

#: Calls before a capture: library handles, kernel choices and compilation happen outside the graph.
WARM_UP = 2


@contextmanager
def eager() -> Iterator[None]:
    """Within, graphs are passed by."""
    GraphedForward.on = False
    try:
        yield
    finally:
        GraphedForward.on = True


class GraphedForward:
    """A module's forward pass replayed from CUDA graphs wherever autograd records nothing.

    One graph for each combination of shapes, other arguments and adapter state. The weights are read where
    they lie, so updates in place are seen.

    Args:
        module: Its ``forward`` is replaced.
        state: Whatever else the result depends on; part of the key.
    """

    #: Whether graphs are used at all.
    on = True

    def __init__(self, module: nn.Module, state: Callable[[], Any]) -> None:
        self.plain = module.forward
        self.state = state
        self._graphs: dict[Any, _Graph] = {}
        self._pool: Any = None
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output; a copy where it came from a graph."""
        leaves, spec = tree_flatten((args, kwargs))
        idle = torch.is_grad_enabled() or not GraphedForward.on
        if idle or not any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in leaves):
            return self.plain(*args, **kwargs)
        key = (spec, tuple(_signature(leaf) for leaf in leaves), self.state())
        if key not in self._graphs:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            self._graphs[key] = _Graph(self.plain, leaves, spec, self._pool)
        return self._graphs[key](leaves)


class _Graph:
    def __init__(self, function: Callable[..., Any], leaves: list[Any], spec: Any, pool: Any) -> None:
        self.inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(self.inputs, spec)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            output = function(*args, **kwargs)
        self.outputs, self.spec = tree_flatten(output)

    def __call__(self, leaves: list[Any]) -> Any:
        for held, given in zip(self.inputs, leaves, strict=True):
            if isinstance(held, Tensor):
                held.copy_(given)
        self.graph.replay()
        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.outputs]
        return tree_unflatten(copies, self.spec)


def _signature(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
