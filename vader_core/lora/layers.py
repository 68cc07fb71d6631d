"""LoRA layers that compute in the base layer's precision: peft's modules with a shorter forward pass."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import layer as peft_layers
from torch import Tensor, nn

from vader_core.precision import without_autocast

#: The trained adapter's name within peft's containers.
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

    #: Whether the base weight holds the trained adapter's share now (``performance/fold_adapter.py``).
    folded = False
    #: Frozen adapters that count now, beside the trained one.
    beside: tuple[str, ...] = ()

    @property
    def counting(self: Any) -> tuple[str, ...]:
        """The adapters whose share this layer computes and adds to the base layer's output."""
        trained = ADAPTER in self.lora_A and not (self.folded or self._disable_adapters)
        return (ADAPTER, *self.beside) if trained else self.beside

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output plus scale times B(A(x)) for every adapter that counts."""
        out: Tensor = self.base_layer(x, *args, **kwargs)
        counting = self.counting
        if not counting:
            return out
        dtype = _computed_in(x)
        with without_autocast(x.device):
            for name in counting:
                given = self.lora_dropout[name](x.to(dtype))
                down = _applied(self.lora_A[name], given, dtype)
                scale = self.scaling[name]
                down = down if scale == 1.0 else down * scale
                out = out + _applied(self.lora_B[name], down, dtype).to(out.dtype)
        return out


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
