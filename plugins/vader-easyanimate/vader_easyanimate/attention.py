"""Attention within a frame, to the text, and over the frames, under the official key names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.nn import functional


class Attention(nn.Module):
    """Multi-head attention.

    Args:
        width: Channels.
        heads: Heads.
        inner: Channels of queries, keys and values together; ``width`` where left out.
        bias: Whether queries, keys and values have a bias; the output always has.
    """

    def __init__(self, width: int, heads: int, *, inner: int | None = None, bias: bool = True) -> None:
        super().__init__()
        inner = inner or width
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=bias)
        self.to_k = nn.Linear(width, inner, bias=bias)
        self.to_v = nn.Linear(width, inner, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """[n, s, width] → the same.

        Args:
            x: Queries.
            context: [n, l, width], keys and values; ``None`` is ``x``.
            bias: [n, 1, 1, l], added to every score.
        """
        given = x if context is None else context
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(given), self.to_v(given))
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        return self.to_out[0](out.transpose(1, 2).flatten(2))


class FramePositions(nn.Module):
    """The table of frame positions, which the official checkpoints store in every attention.

    Args:
        table: [1, frames, width].
    """

    pe: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("pe", table.clone())

    def forward(self, x: Tensor) -> Tensor:
        """[b, t, s, width] plus each frame's entry."""
        return x + self.pe[:, : x.shape[1], None].to(x.dtype)


class FrameAttention(Attention):
    """Attention over the frames at each place, or at each square of places.

    Args:
        width: Channels.
        heads: Heads.
        table: Positions of the latent frames, [1, frames, width].
        square: Side of the square of places that attend together.
    """

    def __init__(self, width: int, heads: int, *, table: Tensor, square: int) -> None:
        super().__init__(width, heads, bias=False)
        self.pos_encoder = FramePositions(table)
        self.square = square

    def over_frames(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[b, t, s, width] → the same; s runs over ``grid``, rows then columns."""
        x = self.pos_encoder(x)
        if self.square == 1:
            return self._attended(x)
        squares = _into_squares(x, grid, self.square)
        return _out_of_squares(self._attended(squares), grid, self.square)

    def _attended(self, x: Tensor) -> Tensor:
        parts = self.to_q(x), self.to_k(x), self.to_v(x)
        return self.to_out[0](functional.attention_over_frames(*parts, self.heads))


def _into_squares(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """[b, t, s, d] → [b, t * side², s / side², d], a sequence being frame, row, column."""
    x = x.unflatten(2, (grid[0] // side, side, grid[1] // side, side))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 3)


def _out_of_squares(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    x = x.unflatten(1, (-1, side, side)).unflatten(4, (grid[0] // side, grid[1] // side))
    return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(2, 5)


class GatedGelu(nn.Module):
    """Linear to twice the width; the second half gates the first through the exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[…, width] → […, hidden]."""
        out, bias = functional.project(self.proj, x)
        return functional.gated_gelu(out, bias)


class TanhGelu(nn.Module):
    """Linear and the tanh form of GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[…, width] → […, hidden]."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Activation of one linear, then another; the official names leave a gap for dropout.

    Args:
        width: Channels in and out; four times as many in between.
        gated: Gated GELU (motion modules) in place of the tanh form.
    """

    def __init__(self, width: int, *, gated: bool) -> None:
        super().__init__()
        first = GatedGelu if gated else TanhGelu
        self.net = nn.ModuleList([first(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """[…, width] → the same."""
        return self.net[2](self.net[0](x))


def text_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: [b, l] → [b, 1, 1, l], 0 where a token counts, else -10,000."""
    return ((1.0 - mask.to(dtype)) * -10_000.0)[:, None, None]
