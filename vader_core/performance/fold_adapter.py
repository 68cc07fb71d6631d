"""The adapter folded into the base weights while no graph is recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vader_core.lora.adapter import lora_layers
from vader_core.lora.layers import ADAPTER


class Folding:
    """Swaps W for W + scale B A in every adapted layer, and back to the kept originals, bit for bit.

    Folded steps pay nothing for the adapter. In bfloat16 the sum is rounded to W's precision, so an update
    smaller than half a unit in the last place of a weight is lost from that weight in those steps; the
    differentiated steps always see the adapter itself.

    Args:
        denoiser: With a LoRA attached.
    """

    #: Validation and sampling use it too.
    exact = True
    #: What it holds beside the model.
    holds = "folded copy"

    def __init__(self, denoiser: nn.Module) -> None:
        self._layers: list[Any] = [layer for _, layer in lora_layers(denoiser)]
        self._weights: list[Tensor] = [layer.get_base_layer().weight.data for layer in self._layers]
        self.originals = [weight.clone() for weight in self._weights]
        self.folded = False

    @property
    def bytes(self) -> int:
        """Memory of the kept originals."""
        return sum(original.numel() * original.element_size() for original in self.originals)

    @torch.no_grad()
    def on(self) -> None:
        """Fold; does nothing where that is so already, or where the adapter is switched off."""
        if self.folded or any(layer._disable_adapters for layer in self._layers):
            return
        for layer, weight, original in zip(self._layers, self._weights, self.originals, strict=True):
            weight.copy_(original + _update(layer).view_as(original))
        self._mark(True)

    @torch.no_grad()
    def off(self) -> None:
        """Unfold; does nothing where that is so already."""
        if self.folded:
            torch._foreach_copy_(self._weights, self.originals)
            self._mark(False)

    def _mark(self, folded: bool) -> None:
        for layer in self._layers:
            layer.folded = folded
        self.folded = folded


def _update(layer: Any) -> Tensor:
    """Scale B A as the base weight's matrix, in the adapter's float32."""
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    product = up.flatten(1) @ down.flatten(1)
    scaled: Tensor = product * layer.scaling[ADAPTER]
    return scaled
