"""Frozen adapters beside the trained one: a distilled one, an old copy, a user's own."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from vader_core.errors import VaderError
from vader_core.lora.adapter import fitted, lora_layers, refuse_foreign, settings_of
from vader_core.lora.formats import Adapter
from vader_core.lora.layers import shorten


def attach_beside(denoiser: nn.Module, name: str, adapter: Adapter, *, what: str) -> None:
    """Put a frozen adapter into ``denoiser``, beside whatever is there; it counts once it has a scale.

    Args:
        denoiser: Changed in place.
        name: The adapter's name; no other adapter has it.
        adapter: Read from a file.
        what: What it is called in messages.

    Raises:
        VaderError: It was made for another model.
    """
    adapter = fitted(denoiser, adapter)
    settings = settings_of(adapter)
    refuse_foreign(denoiser, settings, what=what)
    trained = [value for value in denoiser.parameters() if value.requires_grad]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft takes any number
        target_modules=list(settings.targets),
        bias="none",
        rank_pattern={f"^{module}": rank for module, rank in settings.ranks.items()},
        alpha_pattern={
            f"^{module}": settings.alpha * rank / settings.rank for module, rank in settings.ranks.items()
        },
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, denoiser, adapter_name=name)
    denoiser.requires_grad_(False)
    for value in trained:  # peft freezes all but the adapter it adds
        value.requires_grad_(True)
    layers: list[tuple[str, Any]] = list(lora_layers(denoiser, name))
    for module, layer in layers:
        for half, held in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            weight = held[name].weight
            given = adapter.tensors[f"{module}.{half}.weight"]
            if given.shape != weight.shape:
                raise VaderError(
                    f"{what} was made for another model: {module}.{half}.weight is {tuple(given.shape)} "
                    f"instead of {tuple(weight.shape)}"
                )
            dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
            weight.data = given.to(weight.device, dtype)
        shorten(layer)
    denoiser.eval()


def set_scale(denoiser: nn.Module, name: str, scale: float) -> None:
    """Let the frozen adapter ``name`` count ``scale`` times; 0 skips its arithmetic."""
    layers: list[tuple[str, Any]] = list(lora_layers(denoiser, name))
    for _, layer in layers:
        layer.scaling[name] = scale * layer.lora_alpha[name] / layer.r[name]
        others = tuple(one for one in layer.beside if one != name)
        layer.beside = others if scale == 0.0 else (*others, name)
