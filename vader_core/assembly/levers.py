"""Speed and memory levers of a run: checked before anything is loaded, pulled once everything is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import nn

from vader_core.assembly.parallel import check_parallel
from vader_core.assembly.parts import Assembly
from vader_core.backbone import Backbone
from vader_core.errors import MissingDependencyError, VaderError
from vader_core.lora.adapter import lora_layers
from vader_core.lora.layers import ADAPTER
from vader_core.method.gradient import draws_one, parse_gradient
from vader_core.method.guidance import Guidance
from vader_core.method.model import Lever, Model, Stages
from vader_core.method.shortcuts import Shortcuts, ShortPredictions, parse_interval
from vader_core.nn.functional import fused_kernels
from vader_core.run.config import PerformanceSection, RunConfig

if TYPE_CHECKING:
    from vader_core.parallel.shard import Sharded
    from vader_core.performance.offload import Offload


def make_shortcuts(config: RunConfig, backbone: Backbone, guidance: Guidance) -> ShortPredictions | None:
    """What the no-grad predictions of a training rollout leave out; ``None`` where nothing is.

    Raises:
        VaderError: An option that has no effect here.
    """
    asked, num_steps = config.performance, int(config.sampler.num_steps or 0)
    interval = asked.guidance_interval
    shortcuts = Shortcuts(
        guidance_interval=None if interval is None else parse_interval(interval),
        guidance_cache=asked.guidance_cache,
        feature_cache=asked.feature_cache,
    )
    if not shortcuts.on:
        return None
    shortcuts.check(guidance, num_steps)
    if shortcuts.feature_cache > 1 and not backbone.caches_features:
        raise VaderError(
            f"performance.feature_cache={shortcuts.feature_cache}: backbone {backbone.name!r} keeps no "
            "features; leave the option out"
        )
    return ShortPredictions(backbone, guidance, shortcuts)


#: Optimizers that torch does not have -> the module that does, and its distribution.
OPTIMIZER_LIBRARIES = {
    "adamw8bit": ("bitsandbytes", "bitsandbytes"),
    "came": ("pytorch_optimizer", "pytorch-optimizer"),
    "lion": ("pytorch_optimizer", "pytorch-optimizer"),
}


def check_levers(assembly: Assembly) -> None:
    """Refuse combinations that cannot work.

    Raises:
        VaderError: Saying which option to leave out.
    """
    config, asked = assembly.config, assembly.config.performance
    _check_device(assembly)
    if asked.swap_blocks:
        _check_swap(asked)
    chosen = config.trainer.optimizer
    module, distribution = OPTIMIZER_LIBRARIES.get(chosen, (None, ""))
    if module is not None and find_spec(module) is None:
        raise MissingDependencyError(
            distribution, f"trainer.optimizer={chosen}", f"pip install {distribution}"
        )
    for name, on in (("cuda_graphs", asked.cuda_graphs), ("fold_adapter", asked.fold_adapter)):
        if on and config.lora.dropout:
            raise VaderError(
                f"performance.{name} and lora.dropout={config.lora.dropout:g} cannot be used together: the "
                "no-grad steps would lose the dropout; leave one out"
            )
    if asked.cuda_graphs == "all":
        _check_graphed(assembly)
    if asked.compile_blocks:
        _check_compiled(config)
    if asked.fp8:
        _check_fp8(assembly)
    if config.tuning.kind == "full":
        _check_full(config)
    check_parallel(assembly)


def _check_full(config: RunConfig) -> None:
    for name in ("fold_adapter", "fp8", "swap_blocks"):
        if getattr(config.performance, name):
            raise VaderError(
                f"performance.{name} needs weights that do not learn, and --tune full trains them: leave "
                "one out"
            )
    asked = config.objective.get("reward_gradient")
    if asked is not None and asked.options.get("base_weight"):
        raise VaderError(
            "objective.reward_gradient.base_weight compares with the base model inside an update, and --tune "
            "full has no base model there: leave one out"
        )


def _check_device(assembly: Assembly) -> None:
    asked = assembly.config.performance
    for name, on in (
        ("cuda_graphs", asked.cuda_graphs),
        ("compile_blocks", bool(asked.compile_blocks)),
        ("offload_activations", asked.offload_activations),
        ("swap_blocks", asked.swap_blocks > 0),
    ):
        if on and assembly.device.type != "cuda":
            raise VaderError(f"performance.{name} needs a CUDA device: leave it out")


def _check_swap(asked: PerformanceSection) -> None:
    if not asked.gradient_checkpointing:
        raise VaderError(
            "performance.swap_blocks saves nothing where the weights must stay for the backward pass: leave "
            "it out, or set performance.gradient_checkpointing=true"
        )
    for name in ("cuda_graphs", "fold_adapter", "fp8"):
        if getattr(asked, name):
            raise VaderError(
                f"performance.swap_blocks moves the weights that performance.{name} needs in one place: "
                "leave one out"
            )


def _check_graphed(assembly: Assembly) -> None:
    config, asked = assembly.config, assembly.config.performance
    reasons = {
        "performance.gradient_checkpointing": (
            bool(asked.gradient_checkpointing),
            "decides in Python what is computed again",
        ),
        "performance.offload": (asked.offload, "moves weights between calls"),
        "performance.offload_activations": (
            asked.offload_activations,
            "copies what the backward pass needs to and fro",
        ),
        "performance.compile_blocks": (bool(asked.compile_blocks), "launches by itself"),
        "objective.reward_gradient.segments": (
            assembly.segments.count > 1,
            "would need a graph per segment",
        ),
    }
    for name, (on, reason) in reasons.items():
        if on:
            off = "set it to false" if name.endswith("checkpointing") else "leave one out"
            raise VaderError(f"{name} {reason}, so it does not go with performance.cuda_graphs=all: {off}")
    item = config.objective.get("reward_gradient")
    chosen = str(((item and item.options) or {}).get("gradient") or "last")
    if item is not None and not draws_one(parse_gradient(chosen), assembly.model.num_steps):
        raise VaderError(
            f"performance.cuda_graphs=all holds one differentiated step, and --gradient {chosen} takes more: "
            "use last, steps:I, random:LO-HI or refl:LO-HI, or performance.cuda_graphs=true"
        )


def _check_compiled(config: RunConfig) -> None:
    reasons = {
        "performance.swap_blocks": (config.performance.swap_blocks > 0, "moves weights between calls"),
        "performance.offload_activations": (
            config.performance.offload_activations,
            "takes what a block saves out of the compiler's hands",
        ),
        "performance.fp8": (
            config.performance.fp8 and config.performance.compile_blocks == "all",
            "takes the place of layers in the no-grad steps",
        ),
        "parallel.shard": (config.parallel.shard > 1, "gathers weights around each block"),
        "parallel.context": (config.parallel.context > 1, "exchanges the sequence within a block"),
    }
    for name, (on, reason) in reasons.items():
        if on:
            raise VaderError(
                f"{name} {reason}, so it does not go with performance.compile_blocks"
                f"{'=all' if name == 'performance.fp8' else ''}: leave one out"
            )


def _check_fp8(assembly: Assembly) -> None:
    from vader_core.performance.fp8 import CAPABILITY

    if assembly.config.trainer.precision != "bf16":
        raise VaderError(
            "performance.fp8 rounds what --precision bf16 works with, not "
            f"{assembly.config.trainer.precision}: use bf16, or leave it out"
        )
    if assembly.device.type != "cuda":
        raise VaderError("performance.fp8=true needs a CUDA device: leave it out")
    found = torch.cuda.get_device_capability(assembly.device)
    if found < CAPABILITY:
        raise VaderError(
            f"performance.fp8=true needs a CUDA device of compute capability {CAPABILITY[0]}."
            f"{CAPABILITY[1]} or newer, and this one has {found[0]}.{found[1]}: leave it out"
        )


@contextmanager
def process_switches(config: RunConfig) -> Iterator[None]:
    """Within, the process's own switches are as the run wants them; before and after, as they were."""
    before = torch.backends.cudnn.benchmark
    from vader_core.performance.compile_blocks import compiler_settings

    asked = config.performance
    with fused_kernels(asked.fused_kernels), compiler_settings(asked.compile_blocks):
        # cuDNN's search must be over before a graph is captured.
        torch.backends.cudnn.benchmark = before or bool(asked.cuda_graphs)
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before


def pull_levers(assembly: Assembly, offload: Offload | None = None, sharded: Sharded | None = None) -> None:
    """Apply the run's levers to a loaded assembly with the adapter attached.

    Everything that is on only while no graph is recorded goes into the model's ``levers``; the rest is done
    to this run's own modules.

    Args:
        assembly: Loaded; with ``offload`` its rewards and its backbone rest already.
        offload: Where ``performance.offload`` is on.
        sharded: The denoiser, where its weights are in pieces.
    """
    asked, model, backbone = assembly.config.performance, assembly.model, assembly.backbone
    innermost = asked.channels_last
    if innermost is None:
        innermost = sharded is None and assembly.device.type == "cuda" and backbone.prefers_channels_last
    if innermost:
        _channels_last(backbone.denoiser)
    if offload is not None:
        model.stages = Stages(offload.rewards_awake, offload.autoencoder.awake)
    if asked.compile_blocks:
        _compile(backbone, everywhere=asked.compile_blocks == "all")
    # These need the weights where they are; pieces are torch's to move.
    in_place = asked.fold_adapter or asked.fp8 or asked.cuda_graphs or sharded is not None
    if asked.swap_blocks:
        _swap(backbone, asked.swap_blocks, assembly.device)
    elif assembly.device.type == "cuda" and backbone.experts() and not in_place:
        from vader_core.performance.rest_experts import RestingExperts

        RestingExperts(backbone.experts(), assembly.device)
    if asked.offload_activations:
        from vader_core.performance.offload_activations import OffloadedActivations

        moved = OffloadedActivations(backbone.denoiser, assembly.device)
        backbone.predict = moved.around(backbone.predict)  # type: ignore[method-assign]
    model.levers = tuple(_no_grad_levers(assembly, sharded))


def _no_grad_levers(assembly: Assembly, sharded: Sharded | None) -> Iterator[Lever]:
    """What is on while no graph is recorded, in the order in which it is switched on."""
    asked, model, denoiser = assembly.config.performance, assembly.model, assembly.backbone.denoiser
    folding = fp8 = None
    if asked.fold_adapter:
        from vader_core.performance.fold_adapter import Folding

        pieces = {} if sharded is None else {"part": sharded.part}
        folding = Folding(denoiser, **pieces, captured=bool(asked.cuda_graphs))
        yield folding
    if sharded is not None and assembly.config.parallel.keep_gathered:
        from vader_core.parallel.shard import KeptGathered

        yield KeptGathered(sharded)
    if asked.fp8:
        from vader_core.performance.fp8 import Fp8

        fp8 = Fp8(denoiser, folding)
        if not fp8.layers:
            raise VaderError(
                f"performance.fp8: backbone {assembly.backbone.name!r} has no linear layer wide enough: "
                "leave it out"
            )
        yield fp8
    if asked.cuda_graphs:
        from vader_core.performance.cuda_graphs import GraphedForward

        cache = None if model.shortcuts is None else model.shortcuts.cache

        def state() -> tuple[object, ...]:
            """What the result of a no-grad call depends on beside its arguments."""
            kept = None if cache is None else cache.state
            return adapter_state(model), kept, fp8 is not None and fp8.active

        gradients = asked.cuda_graphs == "all"
        for network in assembly.backbone.experts() or [denoiser]:  # a prediction calls one expert itself
            yield GraphedForward(network, state, gradients=gradients)
        if gradients:
            towers = [tower for term in assembly.rewards.terms for tower in term.reward.towers()]
            for module in (*assembly.backbone.decoders(), *towers):
                GraphedForward(module, lambda: None, gradients=True)


def _compile(backbone: Backbone, *, everywhere: bool) -> None:
    from vader_core.performance.compile_blocks import CompiledBlocks

    blocks = backbone.blocks()
    if not blocks:
        raise VaderError(
            f"performance.compile_blocks: backbone {backbone.name!r} has no blocks to compile: leave it out"
        )
    CompiledBlocks(blocks, everywhere=everywhere)


def _swap(backbone: Backbone, count: int, device: torch.device) -> None:
    from vader_core.performance.swap_blocks import SwappedBlocks

    blocks = backbone.blocks()
    if count > len(blocks):
        raise VaderError(
            f"performance.swap_blocks={count}: backbone {backbone.name!r} has {len(blocks)} blocks to swap"
        )

    def size(block: nn.Module) -> int:
        return sum(one.numel() for one in block.parameters() if not one.requires_grad)

    largest = sorted(range(len(blocks)), key=lambda index: (-size(blocks[index]), -index))[:count]
    SwappedBlocks([blocks[index] for index in sorted(largest)], device)


def _channels_last(module: nn.Module) -> None:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def adapter_state(model: Model) -> tuple[object, ...]:
    """What tells two states of the adapters apart: off, folded, scaled, and what counts beside."""
    beside = tuple(sorted(getattr(model.tuning, "beside", {}).items()))
    for _, layer in lora_layers(model.backbone.denoiser):
        return layer.switched_off, layer.folded, layer.scaling[ADAPTER], beside
    return (beside,)
