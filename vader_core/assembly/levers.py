"""Speed and memory levers of a run, pulled once everything is loaded."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import nn

from vader_core.errors import MissingDependencyError, VaderError
from vader_core.lora.adapter import lora_layers
from vader_core.lora.layers import ADAPTER
from vader_core.nn.functional import Switch

if TYPE_CHECKING:
    from vader_core.assembly.parts import Assembly
    from vader_core.backbone import Backbone
    from vader_core.performance.offload import Offload
    from vader_core.run.config import TrainerSection


def check_levers(assembly: Assembly) -> None:
    """Refuse combinations that cannot work.

    Raises:
        VaderError: Saying which option to leave out.
    """
    trainer, lora = assembly.config.trainer, assembly.config.lora
    _check_device(assembly)
    if trainer.swap_blocks:
        _check_swap(trainer)
    if trainer.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "bitsandbytes", "trainer.optimizer=adamw8bit", "pip install bitsandbytes"
        )
    for name, on in (("cuda_graphs", trainer.cuda_graphs), ("fold_adapter", trainer.fold_adapter)):
        if on and lora.dropout:
            raise VaderError(
                f"trainer.{name} and lora.dropout={lora.dropout:g} cannot be used together: the no-graph "
                "steps would lose the dropout; leave one out"
            )
    if trainer.fp8:
        _check_fp8(assembly)
    if trainer.feature_cache > 1 and not assembly.backbone.caches_features:
        raise VaderError(
            f"trainer.feature_cache={trainer.feature_cache}: backbone {assembly.backbone.name!r} keeps no "
            "features; leave the option out"
        )
    clashing = {
        "segments": trainer.segments > 1,
        "low_variance": trainer.low_variance > 0,
        "inner_updates": trainer.inner_updates > 1,
        "base_weight": trainer.base_weight > 0,
    }
    for name, on in clashing.items():
        if on and trainer.offload:
            raise VaderError(
                f"trainer.offload takes the backward pass in stages, which trainer.{name} does not allow: "
                "leave one out"
            )


def pull_levers(assembly: Assembly, offload: Offload | None = None) -> None:
    """Apply the trainer's levers to a loaded assembly with the adapter attached.

    Args:
        assembly: Loaded; with ``offload`` its rewards and its backbone rest already.
        offload: Where ``trainer.offload`` is on.
    """
    trainer, backbone = assembly.config.trainer, assembly.backbone
    denoiser = backbone.denoiser
    Switch.on = trainer.fused_kernels
    innermost = trainer.channels_last
    if innermost is None:
        innermost = assembly.device.type == "cuda" and backbone.prefers_channels_last
    if innermost:
        _channels_last(denoiser)
    assembly.settings = replace(assembly.settings, offload=offload)
    if trainer.swap_blocks:
        _swap(backbone, trainer.swap_blocks, assembly.device)
    if trainer.offload_activations:
        from vader_core.performance.offload_activations import OffloadedActivations

        moved = OffloadedActivations(denoiser, assembly.device)
        backbone.predict = moved.around(backbone.predict)  # type: ignore[method-assign]
    if trainer.fold_adapter:
        from vader_core.performance.fold_adapter import Folding

        backbone.folding = Folding(denoiser)
    if trainer.fp8:
        from vader_core.performance.fp8 import Fp8

        backbone.fp8 = Fp8(denoiser, backbone.folding)
        if not backbone.fp8.layers:
            raise VaderError(
                f"trainer.fp8: backbone {backbone.name!r} has no linear layer wide enough; leave it out"
            )
    if trainer.feature_cache > 1:
        from vader_core.nn.feature_cache import FeatureCache

        backbone.feature_cache = FeatureCache()
        denoiser.feature_cache = backbone.feature_cache  # type: ignore[assignment]
    if trainer.cuda_graphs:
        from vader_core.performance.cuda_graphs import GraphedForward

        torch.backends.cudnn.benchmark = True
        GraphedForward(denoiser, lambda: _denoiser_state(backbone))


def _check_device(assembly: Assembly) -> None:
    trainer = assembly.config.trainer
    for name, on in (
        ("cuda_graphs", trainer.cuda_graphs),
        ("offload_activations", trainer.offload_activations),
        ("swap_blocks", trainer.swap_blocks > 0),
    ):
        if on and assembly.device.type != "cuda":
            raise VaderError(f"trainer.{name} needs a CUDA device: leave it out")


def _check_swap(trainer: TrainerSection) -> None:
    if not trainer.gradient_checkpointing:
        raise VaderError(
            "trainer.swap_blocks saves nothing where the weights must stay for the backward pass: leave it "
            "out, or set trainer.gradient_checkpointing=true"
        )
    for name in ("cuda_graphs", "fold_adapter", "fp8"):
        if getattr(trainer, name):
            raise VaderError(
                f"trainer.swap_blocks moves the weights that trainer.{name} needs in one place: leave one out"
            )


def _swap(backbone: Backbone, count: int, device: torch.device) -> None:
    from vader_core.performance.swap_blocks import SwappedBlocks

    blocks = backbone.swappable_blocks()
    if count > len(blocks):
        raise VaderError(
            f"trainer.swap_blocks={count}: backbone {backbone.name!r} has {len(blocks)} blocks to swap"
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


def _check_fp8(assembly: Assembly) -> None:
    from vader_core.performance.fp8 import CAPABILITY

    if assembly.config.trainer.precision != "bf16":
        raise VaderError(
            f"trainer.fp8 rounds what --precision bf16 works with, not {assembly.config.trainer.precision}: "
            "use bf16, or leave it out"
        )
    if assembly.device.type != "cuda":
        raise VaderError("trainer.fp8=true needs a CUDA device: leave it out")
    found = torch.cuda.get_device_capability(assembly.device)
    if found < CAPABILITY:
        raise VaderError(
            f"trainer.fp8=true needs a CUDA device of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or "
            f"newer, and this one has {found[0]}.{found[1]}: leave it out"
        )


def _denoiser_state(backbone: Backbone) -> tuple[object, ...]:
    """What the result of a no-graph call depends on beside its arguments."""
    cache, fp8 = backbone.feature_cache, backbone.fp8
    return (
        _adapter_state(backbone.denoiser),
        None if cache is None else cache.state,
        fp8 is not None and fp8.on,
    )


def _adapter_state(denoiser: nn.Module) -> tuple[object, ...]:
    """What tells two states of the adapter apart: off, folded, scaled."""
    for _, layer in lora_layers(denoiser):
        return layer._disable_adapters, getattr(layer, "folded", False), layer.scaling[ADAPTER]
    return ()
