"""The adapter folded into the base weights while no graph is recorded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vader_core.lora.adapter import lora_layers
from vader_core.lora.layers import ADAPTER
from vader_core.parallel.whole import own_piece
from vader_core.performance import cuda_graphs


class Folding:
    """Swaps W for W + scale B A in every adapted layer, and back to the kept originals, bit for bit.

    Folded steps pay nothing for the adapter. In bfloat16 the sum is rounded to W's precision, so an update
    smaller than half a unit in the last place of a weight is lost from that weight in those steps; the
    differentiated steps always see the adapter itself.

    Of a weight that several processes hold in pieces each folds its own rows, and what is gathered is folded.

    Args:
        denoiser: With a LoRA attached.
        part: Lets go of gathered weights, where they are in pieces.
        captured: Fold from a CUDA graph, one for each state of the scales: a layer alone is five launches.
    """

    #: Validation and sampling use it too.
    exact = True
    #: What it holds beside the model.
    holds = "folded copy"

    def __init__(
        self, denoiser: nn.Module, part: Callable[[], None] = lambda: None, *, captured: bool = False
    ) -> None:
        self.captured = captured
        self._replays: dict[tuple[float, ...], Callable[[], None]] = {}
        self._layers = [layer for _, layer in lora_layers(denoiser)]
        self._part = part
        part()
        pieces = [own_piece(layer.base_layer.get_parameter("weight").data) for layer in self._layers]
        self._weights: list[Tensor] = [weight for weight, _ in pieces]
        self._rows = [rows for _, rows in pieces]
        self.originals = [weight.clone() for weight in self._weights]
        self.folded = False

    @property
    def bytes(self) -> int:
        """Memory of the kept originals."""
        return sum(original.numel() * original.element_size() for original in self.originals)

    @torch.no_grad()
    def on(self) -> None:
        """Fold; does nothing where that is so already, or where the adapter is switched off."""
        if self.folded or any(layer.switched_off for layer in self._layers):
            return
        self._part()
        if self.captured:
            self._replay()
        else:
            self._fold()
        self._mark(True)

    def _fold(self) -> None:
        kept = zip(self._layers, self._weights, self.originals, self._rows, strict=True)
        for layer, weight, original, rows in kept:
            weight.copy_(original + layer.product(ADAPTER)[rows].view_as(original))

    def _replay(self) -> None:
        scales = tuple(layer.scaling[ADAPTER] for layer in self._layers)
        if scales not in self._replays:
            with cuda_graphs.beside():
                self._fold()
            self._replays[scales] = cuda_graphs.captured(self._fold, cuda_graphs.graph_pool())
        self._replays[scales]()

    @torch.no_grad()
    def off(self) -> None:
        """Unfold; does nothing where that is so already."""
        if self.folded:
            self._part()
            torch._foreach_copy_(self._weights, self.originals)
            self._mark(False)

    def _mark(self, folded: bool) -> None:
        for layer in self._layers:
            layer.folded = folded
        self.folded = folded
