"""One block of the transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vader_core.nn import functional
from vader_easyanimate.architecture import TransformerConfig
from vader_easyanimate.attention import Attention, FeedForward
from vader_easyanimate.motion import MotionModule


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm of ``x`` [b, t, s, d] without weights, then scaled and shifted by [b, d]."""
    normed = functional.layer_norm(x, None, None, eps)
    return normed * (1 + scale[:, None, None]) + shift[:, None, None]


class Block(nn.Module):
    """Attention within frames, motion module, attention to the text, feed-forward.

    The first and the last are modulated and gated by the time; the other two are plain residuals.

    Args:
        config: Sizes.
        table: Positions of the latent frames.
    """

    def __init__(self, config: TransformerConfig, table: Tensor) -> None:
        super().__init__()
        width, heads = config.width, config.num_attention_heads
        self.eps = config.norm_eps
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn1 = Attention(width, heads)
        self.attn_temporal = MotionModule(width, config.motion, table)
        self.attn2 = Attention(width, heads)
        self.ff = FeedForward(width, gated=False)

    def forward(
        self, x: Tensor, text: Tensor, text_bias: Tensor | None, modulation: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """[b, t, s, width] → the same.

        Args:
            x: Latent tokens.
            text: [b, l, width].
            text_bias: [b, 1, 1, l] or ``None``.
            modulation: [b, 6, width]: shift, scale and gate of attention, then of feed-forward.
            grid: Rows and columns of the s places.
        """
        table = (self.scale_shift_table + modulation).to(x.dtype)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = table.unbind(1)
        within = self.attn1(modulated(x, shift, scale, self.eps).flatten(0, 1)).view_as(x)
        x = x + gate[:, None, None] * within
        x = self.attn_temporal(x, grid)
        x = x + self.attn2(x.flatten(1, 2), text, text_bias).view_as(x)
        return x + gate_ff[:, None, None] * self.ff(modulated(x, shift_ff, scale_ff, self.eps))
