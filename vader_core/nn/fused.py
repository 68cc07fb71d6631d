"""Foreign modules made to use the fused kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

from torch import Tensor, nn

from vader_core.nn import functional as kernels


@cache
def _subclass(kind: Any, forward: Callable[..., Any]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__})


def swap_forward(
    module: nn.Module,
    kind: type[nn.Module],
    forward: Callable[..., Any],
    fits: Callable[[Any], bool] = lambda part: True,
) -> int:
    """Give every part of ``module`` whose class is exactly ``kind`` another forward pass.

    The part becomes an instance of a subclass, so that parameter names, ``isinstance`` and copies stay as
    they were.

    Args:
        module: Searched through.
        kind: The class.
        forward: Instead of the class's own.
        fits: Which of the parts to change.

    Returns:
        How many parts were changed.
    """
    parts = [part for part in module.modules() if type(part) is kind and fits(part)]
    for part in parts:
        part.__class__ = _subclass(cast(Any, kind), forward)
    return len(parts)


def _group_norm(self: nn.GroupNorm, x: Tensor) -> Tensor:
    if self.weight is None or kernels.autocasting(x):
        return nn.GroupNorm.forward(self, x)
    return kernels.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def _layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    if len(self.normalized_shape) != 1 or kernels.autocasting(x):
        return nn.LayerNorm.forward(self, x)
    return kernels.layer_norm(x, self.weight, self.bias, self.eps)


def fuse_norms(module: nn.Module) -> int:
    """Let every ``nn.GroupNorm`` and ``nn.LayerNorm`` use the fused kernels. Returns how many there are."""
    return swap_forward(module, nn.GroupNorm, _group_norm) + swap_forward(module, nn.LayerNorm, _layer_norm)
