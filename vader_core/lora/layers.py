"""LoRA layers: a linear or a convolution, and beside it pairs of small matrices whose product is added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.precision import wide, without_autocast

#: The trained adapter's name within a layer.
ADAPTER = "default"
#: What can carry a LoRA.
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


_Adapted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class LoraLayer(nn.Module):
    """A layer with the adapters on it: its output plus scale times B(A(x)) for every adapter that counts.

    Submodules have peft's names (``base_layer``, ``lora_A.<adapter>``, ``lora_B.<adapter>``), and so have the
    files. All else that is asked of this layer (``weight``, ``in_features``) is the base layer's.

    Args:
        base: Stays as it is.
    """

    #: Whether the base weight holds the trained adapter's share now (``performance/fold_adapter.py``).
    folded = False
    #: Whether the trained adapter is off.
    switched_off = False
    #: Frozen adapters that count now, beside the trained one.
    beside: tuple[str, ...] = ()

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_dropout = nn.ModuleDict()
        self.lora_A = nn.ModuleDict()
        self.lora_B = nn.ModuleDict()
        #: Of each adapter: r, alpha, and what B(A(x)) is multiplied by now.
        self.ranks: dict[str, int] = {}
        self.alphas: dict[str, float] = {}
        self.scaling: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":  # a copy in the making
                raise
            return getattr(self.base_layer, name)

    def add(self, name: str, rank: int, alpha: float, dropout: float = 0.0) -> None:
        """Put an adapter on this layer: A as yet without values, B zero; float32 (float64 on float64).

        Args:
            name: No other adapter here has it.
            rank: r, from 1.
            alpha: B(A(x)) is multiplied by alpha / r.
            dropout: Probability on A's input, in training mode.
        """
        down, up = _pair(self.base_layer, rank)
        weight = self.base_layer.get_parameter("weight")
        for half, values in ((down, torch.empty), (up, torch.zeros)):
            made = values(half.weight.shape, dtype=wide(weight.dtype), device=weight.device)
            half.weight = nn.Parameter(made)
        if dropout:
            self.lora_dropout[name] = nn.Dropout(dropout)
        self.lora_A[name], self.lora_B[name] = down, up
        self.ranks[name], self.alphas[name], self.scaling[name] = rank, alpha, alpha / rank

    @property
    def counting(self) -> tuple[str, ...]:
        """The adapters whose share this layer computes and adds to the base layer's output."""
        trained = ADAPTER in self.lora_A and not (self.folded or self.switched_off)
        return (ADAPTER, *self.beside) if trained else self.beside

    def product(self, name: str) -> Tensor:
        """Scale B A of an adapter, as a matrix [channels out, all that feeds one of them], in its dtype."""
        down, up = self.lora_A[name].get_parameter("weight"), self.lora_B[name].get_parameter("weight")
        product = up.flatten(1) @ down.flatten(1)
        return product * self.scaling[name]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The small matrices are cast to the dtype that the base layer computes in, explicitly.

        Autocast's own cache of casts may have been filled where no graph was recorded.
        """
        out: Tensor = self.base_layer(x, *args, **kwargs)
        counting = self.counting
        if not counting:
            return out
        dtype = _computed_in(x)
        with without_autocast(x.device):
            for name in counting:
                given = x.to(dtype)
                if name in self.lora_dropout:
                    given = self.lora_dropout[name](given)
                down = _applied(self.lora_A[name], given, dtype)
                scale = self.scaling[name]
                down = down if scale == 1.0 else down * scale
                out = out + _applied(self.lora_B[name], down, dtype).to(out.dtype)
        return out


def put_adapter(
    network: nn.Module, module: str, name: str, rank: int, alpha: float, dropout: float = 0.0
) -> LoraLayer:
    """Put an adapter on one module of a network, which becomes a :class:`LoraLayer` unless it is one.

    Args:
        network: Changed in place.
        module: The module's whole name.
        name: The adapter's.
        rank: r.
        alpha: As in :meth:`LoraLayer.add`.
        dropout: Likewise.

    Raises:
        VaderError: It is neither a linear nor a convolution, or its groups do not divide the rank.
    """
    layer = network.get_submodule(module)
    if not isinstance(layer, LoraLayer):
        if not isinstance(layer, KINDS):
            raise VaderError(f"{module} is a {type(layer).__name__}: a LoRA needs a linear or a convolution")
        groups = getattr(layer, "groups", 1)
        if rank % groups:
            raise VaderError(f"LoRA on {module}: its {groups} groups do not divide the rank {rank}")
        layer = LoraLayer(layer)
        parent, _, child = module.rpartition(".")
        setattr(network.get_submodule(parent), child, layer)
    layer.add(name, rank, alpha, dropout)
    return layer


def _pair(base: nn.Module, rank: int) -> tuple[_Adapted, _Adapted]:
    """A and B for a layer, without memory: A is the layer with ``rank`` channels, B works pointwise."""
    if isinstance(base, nn.Linear):
        return (
            nn.Linear(base.in_features, rank, bias=False, device="meta"),
            nn.Linear(rank, base.out_features, bias=False, device="meta"),
        )
    assert isinstance(base, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    kind: Any = next(kind for kind in KINDS if isinstance(base, kind))
    moved = {"stride": base.stride, "padding": base.padding, "dilation": base.dilation}
    return (
        kind(base.in_channels, rank, base.kernel_size, bias=False, device="meta", **moved),
        kind(rank, base.out_channels, 1, groups=base.groups, bias=False, device="meta"),
    )


def _computed_in(x: Tensor) -> torch.dtype:
    """The dtype that the base layer computes in: autocast's where it is on, else the input's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _applied(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    assert isinstance(layer, KINDS)
    weight = layer.weight.to(dtype)
    return (
        nn.functional.linear(x, weight)
        if isinstance(layer, nn.Linear)
        else layer._conv_forward(x, weight, None)
    )
