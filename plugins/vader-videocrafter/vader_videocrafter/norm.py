"""Normalisations that keep the input's dtype and take their statistics in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core import kernels


def _same(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """Group normalisation over `[b, c, ...]` in the input's dtype, statistics in float32.

    Autocast would return float32 and so add two casts and double the traffic of the layer that follows; the
    kernel accumulates in float32 anyway, so the rounding happens once either way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x`; same shape and dtype out."""
        with torch.autocast(x.device.type, enabled=False):
            return kernels.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis in the input's dtype, statistics in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x`; same shape and dtype out."""
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(
                x, self.normalized_shape, _same(self.weight, x), _same(self.bias, x), self.eps
            )
