"""LoRA layers that compute in the base layer's precision: peft's modules with a shorter forward pass."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import layer as peft_layers
from torch import Tensor, nn

#: The one adapter's name within peft's containers.
ADAPTER = "default"


def _computed_in(x: Tensor) -> torch.dtype:
    """The dtype that the base layer computes in: autocast's where it is on, else the input's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Short:
    """A forward pass without peft's detours.

    Peft widens the input to the adapter's float32 before every LoRA product, and under autocast it is
    narrowed again. Here the small matrices are cast instead, explicitly: autocast's own cache of casts may
    have been filled where no graph was recorded.
    """

    #: Whether the base weight holds the adapter's share now (``vader_core.performance.fold_adapter``).
    folded = False

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output plus scale times B(A(x))."""
        base: Tensor = self.base_layer(x, *args, **kwargs)
        if self.folded or self._disable_adapters:
            return base
        dtype = _computed_in(x)
        with torch.autocast(x.device.type, enabled=False):
            given = self.lora_dropout[ADAPTER](x.to(dtype))
            down = _applied(self.lora_A[ADAPTER], given, dtype)
            scale = self.scaling[ADAPTER]
            down = down if scale == 1.0 else down * scale
            return base + _applied(self.lora_B[ADAPTER], down, dtype).to(base.dtype)


def _applied(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    weight = layer.weight.to(dtype)
    return (
        nn.functional.linear(x, weight)
        if isinstance(layer, nn.Linear)
        else layer._conv_forward(x, weight, None)
    )


_SHORT: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(f"Short{kind.__name__}", (_Short, kind), {})
    for kind in (peft_layers.Linear, peft_layers.Conv1d, peft_layers.Conv2d, peft_layers.Conv3d)
}


def shorten(layer: Any) -> None:
    """Give a LoRA layer of peft the short forward pass; names and parameters stay."""
    layer.__class__ = _SHORT.get(type(layer), type(layer))
