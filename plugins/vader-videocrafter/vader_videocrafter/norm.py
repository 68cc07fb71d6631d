"""Normalisations that keep the input's dtype and take their statistics in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vader_core import kernels


class GroupNorm(nn.GroupNorm):
    """Group normalisation over `[b, c, ...]` in the input's dtype, statistics in float32.

    Autocast would return float32 and so add two casts and double the traffic of the layer that follows; the
    kernel accumulates in float32 anyway, so the rounding happens once either way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x`; same shape and dtype out."""
        with torch.autocast(x.device.type, enabled=False):
            return kernels.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class GroupNormSiLU(GroupNorm):
    """Group normalisation, then SiLU: two layers of the official model, the second without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates `x`; same shape and dtype out."""
        with torch.autocast(x.device.type, enabled=False):
            return kernels.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, silu=True)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis in the input's dtype, statistics in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x`; same shape and dtype out."""
        with torch.autocast(x.device.type, enabled=False):
            return kernels.layer_norm(x, self.weight, self.bias, self.eps)
