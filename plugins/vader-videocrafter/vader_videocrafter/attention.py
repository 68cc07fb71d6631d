"""Attention, feed-forward and the transformer block shared by the spatial and temporal transformers.

Shape letters: b samples, t frames, n tokens per frame, l text tokens, d width. A "row" is a frame.
"""

from __future__ import annotations

from torch import Tensor, nn

from vader_core.nn import functional as kernels
from vader_videocrafter.norm import LayerNorm


class Attention(nn.Module):
    """Multi-head attention without mask or positions; keys and values from `context`, or from `x`."""

    def __init__(self, width: int, heads: int, head_width: int, context_width: int | None = None) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width or width, inner, bias=False)
        self.to_v = nn.Linear(context_width or width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Attends.

        Args:
            x: `[rows, n, d]`, or `[b, t, n, d]` to attend along the frames at each place.
            context: `[b, l, context d]` with `rows` a multiple of b (all rows of a sample adjacent); None for
                self-attention.

        Returns:
            Shape of `x`; and the bias `[d]` that is still to be added, if there is one.
        """
        source = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(source), self.to_v(source)
        if x.ndim == 4:
            return kernels.project(self.to_out[0], kernels.attention_over_frames(q, k, v, self.heads))
        # Every query sees the whole text on its own, so a sample's frames share one copy of it.
        q = q.reshape(source.shape[0], -1, q.shape[-1])
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        out = kernels.attention(q, k, v)
        return kernels.project(self.to_out[0], out.transpose(1, 2).reshape(*x.shape[:2], -1))


class GatedProjection(nn.Module):
    """Linear to twice the width; the first half times the exact GELU of the second."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d]` to `[..., inner]`."""
        return kernels.gated_gelu(*kernels.project(self.proj, x))


class FeedForward(nn.Module):
    """Gated feed-forward of four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The empty middle keeps the official index of the output layer, which follows a dropout there.
        self.net = nn.Sequential(
            GatedProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d]` to `[..., d]`."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Pre-norm block: self-attention, attention to the text (or to itself once more), feed-forward."""

    def __init__(self, width: int, heads: int, head_width: int, context_width: int | None) -> None:
        super().__init__()
        self.attn1 = Attention(width, heads, head_width)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, heads, head_width, context_width)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.norm3 = LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`[rows, n, d]` or `[b, t, n, d]` to the same; `context` `[b, l, d]` for the second attention."""
        x, normed = self.norm2.of_sum(x, *self.attn1(self.norm1(x)))
        last = kernels.accumulating(self.ff.net[-1], x)
        found, bias = self.attn2(normed, context)
        x, normed = self.norm3.of_sum(x, found, bias, None if last is None else last.bias)
        if last is None:
            return x + self.ff(normed)
        return kernels.accumulate(x, last, self.ff.net[:-1](normed))
