"""A backbone: where the gradient flows, and what may not change it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.performance.swap_blocks import SwappedBlocks
from vader_core.randomness import derive_seed
from vader_core.testing.backbone_case import (
    BACKBONE,
    BackboneSubject,
    case_of,
    parameters_of,
)
from vader_core.testing.conformance import (
    expect,
)


@BACKBONE.clause
def gradient_to_latents(subject: BackboneSubject) -> str:
    """The gradient flows back through `predict` and `decode` to the latents, each sample's to its own."""
    case = case_of(subject)
    sizes = []
    for name in ("predict", "decode"):
        latents = case.latents.clone().requires_grad_(True)
        if name == "predict":
            out = replace(case, latents=latents).predict()
        else:
            out = case.backbone.decode(latents, case.geometry)
        expect(out.requires_grad, f"{name} cuts the graph: its result needs no gradient")
        (gradient,) = torch.autograd.grad(energy(out[:1]), latents, allow_unused=True)
        if gradient is None:
            expect(False, f"{name}: no gradient reaches the latents")
            continue
        expect(bool(torch.isfinite(gradient).all()), f"{name}: the gradient is not finite")
        mine, other = float(gradient[0].norm()), float(gradient[1].norm())
        expect(mine > 0, f"{name}: the gradient at the latents is zero")
        expect(other <= 1e-6 * mine, f"{name}: sample 0's gradient reaches sample 1 ({other:.2g})")
        sizes.append(f"{name} {mine:.2g}")
    return ", ".join(sizes)


def energy(out: Tensor) -> Tensor:
    """A loss that tells every element of ``out`` from every other: a scalar."""
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    return (out * weights).mean() + (out - 0.5).square().mean()


def lora_gradients(
    subject: BackboneSubject, *, checkpointing: bool = False, backbone: Backbone | None = None
) -> tuple[Backbone, dict[str, Tensor]]:
    """The LoRA's gradients of predict, then decode, with neither half of the LoRA at zero."""
    if backbone is None:
        backbone = subject.fresh()
        attach_lora(backbone.denoiser, LoraSettings(rank=2, alpha=2.0, targets=backbone.lora_targets))
        for name, parameter in adapter_parameters(backbone.denoiser).items():
            drawn = torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(derive_seed("kit", name))
            )
            parameter.data.copy_(drawn * 0.3 / math.sqrt(parameter[0].numel()))
    for parameter in parameters_of(backbone).values():
        parameter.grad = None
    case = case_of(subject, backbone)
    with backbone.checkpointing(checkpointing):
        video = backbone.decode(case.predict(), case.geometry)
        energy(video).backward()
    gradients = {}
    for name, parameter in adapter_parameters(backbone.denoiser).items():
        if parameter.grad is None:
            expect(False, f"no gradient reaches {name}")
            continue
        gradients[name] = parameter.grad.detach().clone()
    return backbone, gradients


@BACKBONE.clause
def gradient_to_lora(subject: BackboneSubject) -> str:
    """The gradient reaches the LoRA, all of it, and only the LoRA."""
    backbone, gradients = lora_gradients(subject)
    adapter = {id(parameter) for parameter in adapter_parameters(backbone.denoiser).values()}
    reached = [
        name
        for name, parameter in parameters_of(backbone).items()
        if id(parameter) not in adapter and (parameter.requires_grad or parameter.grad is not None)
    ]
    expect(not reached, f"{len(reached)} base parameters are trained too, first {reached[:1]}")
    bad = [name for name, value in gradients.items() if not torch.isfinite(value).all()]
    expect(not bad, f"{len(bad)} gradients are not finite, first {bad[:1]}")
    still = [name for name, value in gradients.items() if not value.any()]
    expect(len(still) < len(gradients), "every gradient is zero")
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
    zeros = f", {len(still)} of them zero (first {still[0]})" if still else ""
    return f"{len(gradients)} tensors{zeros}, norm {norm:.3g}"


@BACKBONE.clause
def checkpointing(subject: BackboneSubject) -> str:
    """Gradient checkpointing keeps fewer activations and changes no gradient beyond rounding."""
    backbone, plain = lora_gradients(subject)
    _, recomputed = lora_gradients(subject, checkpointing=True, backbone=backbone)
    largest = max(float(value.abs().max()) for value in plain.values())
    off = max(float((recomputed[name] - value).abs().max()) for name, value in plain.items())
    found = f"gradients differ by {off:.2g} (the largest is {largest:.2g})"
    expect(off <= ROUNDING_OF_GRADIENTS * largest, found)
    kept = {on: _kept_bytes(subject, backbone, on) for on in (False, True)}
    expect(kept[True] < kept[False], f"{kept[False]:,} bytes are kept without it and {kept[True]:,} with it")
    return f"{found}; keeps {kept[True] / kept[False]:.0%} of the activations"


def _kept_bytes(subject: BackboneSubject, backbone: Backbone, on: bool) -> int:
    """Bytes of activations that a call of the denoiser keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    case = case_of(subject, backbone)
    with backbone.checkpointing(on), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        case.predict()
    return sum(kept.values())


#: Largest difference of gradients in float32, as a share of the largest one.
ROUNDING_OF_GRADIENTS = 1e-4


@BACKBONE.clause
def chosen_gradient(subject: BackboneSubject) -> str:
    """Chosen frames send back the gradient that they have in the full decode, recomputed or not."""
    backbone = subject.fresh()
    case = case_of(subject, backbone)
    count = case.geometry.num_frames
    frames = sorted({count // 3, count - 1})

    def gradient(chosen: list[int] | None, *, recomputed: bool) -> Tensor:
        latents = case.latents.clone().requires_grad_(True)
        with backbone.checkpointing(recomputed):
            video = backbone.decode(latents, case.geometry, chosen)
            energy(video[:, frames] if chosen is None else video).backward()
        return torch.zeros_like(latents) if latents.grad is None else latents.grad

    plain = gradient(frames, recomputed=False)
    wanted = gradient(None, recomputed=False) if backbone.decode_is_exact else plain
    largest = float(wanted.abs().max())
    expect(largest > 0, f"frames {frames} send no gradient back")
    for name, found in (("", plain), ("recomputed, ", gradient(frames, recomputed=True))):
        off = float((found - wanted).abs().max())
        said = f"{name}frames {frames} differ from the full decode's gradient by {off:.2g} of {largest:.2g}"
        expect(off <= ROUNDING_OF_GRADIENTS * largest, said)
    return said


@BACKBONE.clause
def swapping(subject: BackboneSubject) -> str:
    """Blocks whose weights lie elsewhere between uses, where it names any, give the same gradients."""
    backbone, plain = lora_gradients(subject, checkpointing=True)
    blocks = backbone.blocks()
    if not blocks:
        return "names none"
    parts = [id(part) for block in blocks for part in block.modules()]
    expect(len(parts) == len(set(parts)), "one of its swappable blocks lies within another")
    swapped = SwappedBlocks(blocks, torch.device("cpu"))
    for resting in swapped.resting:
        resting.blank()
    _, found = lora_gradients(subject, checkpointing=True, backbone=backbone)
    largest = max(float(value.abs().max()) for value in plain.values())
    off = max(float((found[name] - value).abs().max()) for name, value in plain.items())
    said = f"gradients differ by {off:.2g} (the largest is {largest:.2g})"
    expect(off <= ROUNDING_OF_GRADIENTS * largest, said)  # not where they are not numbers
    return f"{len(blocks)} blocks; {said}"
