"""Foreign modules made to use the fused kernels, and to keep channels innermost."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from vader_core import kernels


@cache
def _subclass(kind: Any, forward: Callable[..., Any]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__})


def swap_forward(module: nn.Module, kind: type[nn.Module], forward: Callable[..., Any]) -> int:
    """Give every part of ``module`` whose class is exactly ``kind`` another forward pass.

    The part becomes an instance of a subclass, so that parameter names, ``isinstance`` and copies stay as
    they were.

    Returns:
        How many parts there were.
    """
    parts = [part for part in module.modules() if type(part) is kind]
    for part in parts:
        part.__class__ = _subclass(cast(Any, kind), forward)
    return len(parts)


def _group_norm(self: nn.GroupNorm, x: Tensor) -> Tensor:
    if self.weight is None or torch.is_autocast_enabled(x.device.type):
        return nn.GroupNorm.forward(self, x)
    return kernels.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def _layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    if len(self.normalized_shape) != 1 or torch.is_autocast_enabled(x.device.type):
        return nn.LayerNorm.forward(self, x)
    return kernels.layer_norm(x, self.weight, self.bias, self.eps)


def fuse_norms(module: nn.Module) -> int:
    """Let every ``nn.GroupNorm`` and ``nn.LayerNorm`` use the fused kernels. Returns how many there are."""
    return swap_forward(module, nn.GroupNorm, _group_norm) + swap_forward(module, nn.LayerNorm, _layer_norm)


def keep_innermost(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    """Let parts that return contiguous [n, c, h, w] return channels innermost where they were given so.

    Args:
        module: Searched through.
        kinds: Classes whose ``forward`` takes the activations first and returns a tensor or a tuple.

    Returns:
        How many parts there were.
    """
    parts = [part for part in module.modules() if isinstance(part, kinds)]
    for part in parts:
        part.__class__ = _keeping(cast(Any, type(part)))
    return len(parts)


@cache
def _keeping(kind: Any) -> type[nn.Module]:
    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        found = kind.forward(self, x, *args, **kwargs)
        if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous():
            return found
        if isinstance(found, Tensor):
            return found.contiguous(memory_format=torch.channels_last)
        if isinstance(found, tuple):
            return (found[0].contiguous(memory_format=torch.channels_last), *found[1:])
        return found

    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__})
