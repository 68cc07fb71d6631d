"""Frozen adapters beside the trained one: a distilled one, an old copy, a user's own."""

from __future__ import annotations

from torch import nn

from vader_core.errors import VaderError
from vader_core.lora.adapter import fitted, lora_layers, refuse_foreign, settings_of
from vader_core.lora.formats import Adapter
from vader_core.lora.layers import put_adapter


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
    for module in settings.targets:
        rank = settings.ranks.get(module, settings.rank)
        layer = put_adapter(denoiser, module, name, rank, settings.alpha * rank / settings.rank)
        for half, held in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            weight = held[name].get_parameter("weight")
            given = adapter.tensors[f"{module}.{half}.weight"]
            if given.shape != weight.shape:
                raise VaderError(
                    f"{what} was made for another model: {module}.{half}.weight is {tuple(given.shape)} "
                    f"instead of {tuple(weight.shape)}"
                )
            weight.requires_grad_(False)
            weight.data = given.to(weight.device, weight.dtype)
    denoiser.eval()


def set_scale(denoiser: nn.Module, name: str, scale: float) -> None:
    """Let the frozen adapter ``name`` count ``scale`` times; 0 skips its arithmetic."""
    for _, layer in lora_layers(denoiser, name):
        layer.scaling[name] = scale * layer.alphas[name] / layer.ranks[name]
        others = tuple(one for one in layer.beside if one != name)
        layer.beside = others if scale == 0.0 else (*others, name)
