"""Several processes on paper: this one is the first of them, and what it is sent is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import distributed as dist
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from vader_core.assembly.parts import Assembly
from vader_core.parallel.layout import Layout
from vader_core.parallel.mesh import Mesh
from vader_core.parallel.whole import in_pieces
from vader_core.performance.offload import modules_of
from vader_core.profiling.graph_walk import is_walking


@contextmanager
def processes_on_paper(layout: Layout) -> Iterator[Mesh | None]:
    """Within, torch's fake process group stands for the processes, on a device on paper; yields their mesh.

    Args:
        layout: Who shares what; where nothing is shared there is nothing to pretend.
    """
    if layout.shard == layout.context == 1 or dist.is_initialized():
        yield None
        return
    from torch.distributed.tensor._sharding_prop import ShardingPropagator
    from torch.testing._internal.distributed.fake_pg import FakeStore

    with ExitStack() as stack:
        # A device on paper says that it is always going back, for the sake of checkpointed blocks.
        place = "torch.distributed.fsdp._fully_shard._fsdp_param_group.is_bw"
        import torch.distributed.fsdp

        stack.enter_context(patch(place, is_walking, create=True))
        # What is on the CPU has its values and stays there: sequences are cut by them.
        place = "torch.distributed.fsdp._fully_shard._fsdp_state._to_kwargs"
        stack.enter_context(patch(place, lambda args, kwargs, *_: ((args,), (kwargs,))))
        # Whole shapes, of which torch asks what an operation makes, take up nothing.
        place = "torch.distributed.tensor._sharding_prop.ShardingPropagator"
        name = "_propagate_tensor_meta_non_cached"
        stack.enter_context(patch(f"{place}.{name}", _off_paper(getattr(ShardingPropagator, name))))
        dist.init_process_group("fake", rank=0, world_size=layout.world, store=FakeStore())
        stack.callback(dist.destroy_process_group)
        yield Mesh(layout, torch.device("cuda"), (0, 1))


def _off_paper(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose tensors nobody books."""

    def call(*args: Any) -> Any:
        with _disable_current_modes():
            return function(*args)

    return call


def traffic(assembly: Assembly, layout: Layout, *, differentiated: int, exchanged: float) -> dict[str, float]:
    """Bytes that one process is sent in an optimizer step, by what they are.

    Weights in pieces are gathered for every call of the denoiser, and once more for a call's backward pass;
    those of the rewards for their one call and its backward pass. A shared sequence is exchanged in every
    call, likewise backwards, and once more where activations are recomputed. Gradients of what learns are
    reduced once.

    Args:
        assembly: Loaded on paper.
        layout: Who shares what.
        differentiated: How many sampling steps are differentiated.
        exchanged: Bytes of the sequence that one sampling step's predictions exchange.
    """
    config, steps = assembly.config, int(assembly.config.sampler.num_steps or 0)
    trainer, plain = config.trainer, steps - differentiated
    micro = layout.accumulate(trainer.accumulate, trainer.batch_size, trainer.global_batch)
    found: dict[str, float] = {}
    if layout.shard > 1:
        before = min(1, plain) if config.parallel.keep_gathered else plain
        gathered = (before + 2 * differentiated) * _calls(assembly)
        experts = max(1, len(assembly.backbone.experts()))  # of which a call gathers one
        held = _bytes_in_pieces(assembly.backbone.denoiser) / experts
        found["weights"] = micro * gathered * _others(held, layout.shard)
        scored = [part for term in assembly.rewards.terms for part in modules_of(term.reward)]
        found["rewards"] = micro * 2 * _others(sum(map(_bytes_in_pieces, scored)), layout.shard)
    if layout.context > 1:
        times = plain + differentiated * (3 if config.performance.gradient_checkpointing else 2)
        found["sequence"] = micro * times * _others(exchanged, layout.context)
    trained = assembly.model.tuning.parameters().values()
    whole = sum(one.numel() * one.element_size() for one in trained if not in_pieces(one))
    if layout.world > 1 and whole:
        found["gradients"] = 2 * _others(whole, layout.world)
    if any(in_pieces(one) for one in trained):
        found["gradients"] = micro * _others(_bytes_in_pieces(assembly.backbone.denoiser), layout.shard)
    return {name: size for name, size in found.items() if size}


def _calls(assembly: Assembly) -> int:
    """Calls of the denoiser in one guided prediction."""
    guidance = assembly.model.guidance
    return 2 if guidance.on and guidance.split else 1


def _others(size: float, world: int) -> float:
    """The share of the others of something that ``world`` processes have in equal parts."""
    return size * (world - 1) / world


def _bytes_in_pieces(module: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in module.parameters() if in_pieces(one))
