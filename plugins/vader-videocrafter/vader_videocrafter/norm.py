"""Normalisations that keep the input's dtype and take their statistics in float32."""

from __future__ import annotations

from torch import Tensor, nn

from vader_core.nn import functional as kernels
from vader_core.precision import without_autocast


class GroupNorm(nn.GroupNorm):
    """Group normalisation over `[b, c, ...]` in the input's dtype, statistics in float32.

    Autocast would return float32 and so add two casts and double the traffic of the layer that follows; the
    kernel accumulates in float32 anyway, so the rounding happens once either way.
    """

    silu = False

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """Normalises `x`, plus `extra` `[m, c]` repeated to the length of b; same shape and dtype out."""
        with without_autocast(x.device):
            return kernels.group_norm(
                x, self.num_groups, self.weight, self.bias, self.eps, silu=self.silu, extra=extra
            )


class GroupNormSiLU(GroupNorm):
    """Group normalisation, then SiLU: two layers of the official model, the second without parameters."""

    silu = True


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis in the input's dtype, statistics in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x`; same shape and dtype out."""
        with without_autocast(x.device):
            return kernels.layer_norm(x, self.weight, self.bias, self.eps)

    def of_sum(
        self, x: Tensor, other: Tensor, bias: Tensor | None, later: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`x + other + bias`, to which `later` is added in the end, and the first sum normalised."""
        extra = None if bias is None else bias[None]
        with without_autocast(x.device):
            return kernels.add_layer_norm(
                x, other, self.weight, self.bias, self.eps, extra=extra, later=later
            )
