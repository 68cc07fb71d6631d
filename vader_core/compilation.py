"""Compiled blocks and CUDA graphs for the denoiser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from vader_core.backbone import Backbone

Compile = Literal["off", "blocks", "denoiser"]

#: Shapes and modes that one kind of block may be compiled for; the U-Nets need about thirty.
RECOMPILE_LIMIT = 128


def cache_folder() -> Path:
    """Where compiled kernels are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "vader" / "compiled"


def compile_denoiser(backbone: Backbone, what: Compile) -> int:
    """Compile the denoiser's blocks, or the denoiser as a whole, in place; work is done at the first calls.

    Blocks of a kind (same class, same sizes) share one compilation. Shapes are fixed: a new geometry compiles
    anew. Compiled kernels are kept on disk between runs.

    Args:
        backbone: Loaded, with the adapter attached.
        what: ``blocks`` follows the backbone's :meth:`~vader_core.backbone.Backbone.blocks`.

    Returns:
        How many modules were marked.
    """
    if what == "off":
        return 0
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder()))
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, RECOMPILE_LIMIT)  # type: ignore[assignment]
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 8 * RECOMPILE_LIMIT)
    modules = (backbone.blocks() or [backbone.denoiser]) if what == "blocks" else [backbone.denoiser]
    for module in modules:
        module.compile(dynamic=False)
    return len(modules)


@contextmanager
def eager() -> Iterator[None]:
    """Within, compiled modules and CUDA graphs are passed by."""
    GraphedForward.on = False
    torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        torch.compiler.set_stance("default")
        GraphedForward.on = True


class GraphedForward:
    """A module's forward pass replayed from CUDA graphs.

    One graph for each combination of shapes, other arguments and adapter state. The weights are read where
    they lie, so updates in place are seen.

    Args:
        module: Its ``forward`` is replaced.
        state: Whatever else the result depends on; part of the key.
        differentiated: Replay differentiated calls and their backward pass too. Right only where each such call's
            backward pass comes before the next such call: the graph holds one set of activations.
    """

    #: Whether graphs are used at all.
    on = True

    def __init__(self, module: nn.Module, state: Callable[[], Any], *, differentiated: bool) -> None:
        self.plain = module.forward
        self.state = state
        self.differentiated = differentiated
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._graphs: dict[Any, Any] = {}
        self._pool: Any = None
        module.forward = self  # type: ignore[method-assign, assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output."""
        graph = torch.is_grad_enabled()
        leaves, spec = tree_flatten((args, kwargs))
        idle = not GraphedForward.on or (graph and not self.differentiated)
        if idle or not any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in leaves):
            return self.plain(*args, **kwargs)
        key = (graph, spec, tuple(_signature(leaf) for leaf in leaves), self.state())
        if key not in self._graphs:
            self._graphs[key] = self._captured(leaves, spec, graph)
        return self._graphs[key](leaves)

    def _captured(self, leaves: list[Any], spec: Any, graph: bool) -> Callable[[list[Any]], Any]:
        if graph:
            return _DifferentiatedGraph(self.plain, self._trained, leaves, spec)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return _Graph(self.plain, leaves, spec, self._pool)


class _Graph:
    def __init__(self, function: Callable[..., Any], leaves: list[Any], spec: Any, pool: Any) -> None:
        self.inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(self.inputs, spec)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # library handles, kernel choices and compilation happen outside the graph
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


class _DifferentiatedGraph:
    """Forward and backward pass as two graphs, between which the activations lie in the graphs' memory.

    One stream for warming up and for both captures: the parameters' accumulation nodes remember theirs.
    """

    def __init__(
        self, function: Callable[..., Any], trained: list[nn.Parameter], leaves: list[Any], spec: Any
    ) -> None:
        self.inputs = [
            leaf.detach().clone().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        ]
        self.places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.trained = trained
        wanted = [self.inputs[place] for place in self.places if self.inputs[place].requires_grad] + trained

        def run() -> tuple[Tensor, Any]:
            args, kwargs = tree_unflatten(self.inputs, spec)
            outputs, self.spec = tree_flatten(function(*args, **kwargs))
            if len(outputs) != 1:
                raise RuntimeError(f"the denoiser returned {len(outputs)} tensors, not one")
            return outputs[0], self.spec

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                output, _ = run()
                torch.autograd.grad(output, wanted, torch.zeros_like(output), allow_unused=True)
                del output
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, stream=stream):
            self.output, _ = run()
        self.given = torch.zeros_like(self.output)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), stream=stream):
            self.gradients = torch.autograd.grad(self.output, wanted, self.given, allow_unused=True)
        self.output = self.output.detach()

    def __call__(self, leaves: list[Any]) -> Any:
        output = _Replay.apply(self, *(leaves[place] for place in self.places), *self.trained)
        return tree_unflatten([output], self.spec)


class _Replay(torch.autograd.Function):
    """A differentiated graph as one operation."""

    @staticmethod
    def forward(ctx: Any, graph: _DifferentiatedGraph, *tensors: Tensor) -> Tensor:
        ctx.graph = graph
        for place, given in zip(graph.places, tensors, strict=False):
            graph.inputs[place].detach().copy_(given)
        graph.forward.replay()
        return graph.output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        graph: _DifferentiatedGraph = ctx.graph
        graph.given.copy_(gradient)
        graph.backward.replay()
        found = iter([None if one is None else one.clone() for one in graph.gradients])
        inputs = [next(found) if graph.inputs[place].requires_grad else None for place in graph.places]
        return (None, *inputs, *found)


def _signature(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return (tuple(leaf.shape), leaf.dtype, leaf.device, leaf.requires_grad)
    return leaf
