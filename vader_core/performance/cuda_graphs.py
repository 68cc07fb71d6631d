"""CUDA graphs for the denoiser's no-grad calls: one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
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
    """

    #: Validation and sampling use it too.
    exact = True
    #: What it holds beside the model.
    holds = "CUDA graphs"

    def __init__(self, module: nn.Module, state: Callable[[], Any]) -> None:
        self.plain = module.forward
        self.state = state
        self._graphs: dict[Any, _Graph] = {}
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
        idle = torch.is_grad_enabled() or not self._active
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
