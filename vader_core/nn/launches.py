"""Launches of the Triton programs, with their gradients; :mod:`vader_core.nn.functional` decides when.

Every gradient is that of the activations alone: weights are frozen. Second derivatives do not exist.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vader_core.nn import triton_programs as programs

#: Numbers that one program holds at a time, and the most partial sums of a sample.
TILE = 4096
CHUNKS = 128
#: Tiles that one program takes one after the other where it needs no sums.
TILES = 4


def _columns(channels: int) -> int:
    """Channels that one program takes: a power of two, which divides most widths of U-Nets."""
    divisor = channels & -channels
    return min(divisor, 256) if divisor >= 32 else min(programs.power_of_two(channels), 1024)


class _Tiles:
    """How [samples, rows, channels] is cut up."""

    def __init__(self, samples: int, rows: int, channels: int) -> None:
        self.samples, self.rows, self.channels = samples, rows, channels
        self.width = _columns(channels)
        self.block = TILE // self.width
        self.blocks = -(-channels // self.width)
        self.each = self.block * max(TILES, -(-rows // (self.block * CHUNKS)))
        self.chunks = -(-rows // self.each)

    @property
    def for_sums(self) -> tuple[int, int, int]:
        return self.chunks, self.blocks, self.samples

    @property
    def for_each(self) -> tuple[int, int, int]:
        return -(-self.rows // (TILES * self.block)), self.blocks, self.samples

    def constants(self, rows: int | None = None) -> dict[str, int]:
        """``C``, ``WIDTH``, ``BLOCK`` and ``ROWS`` of the programs."""
        each = TILES * self.block if rows is None else rows
        return {"C": self.channels, "WIDTH": self.width, "BLOCK": self.block, "ROWS": each}


def innermost(x: Tensor) -> Tensor:
    """``x`` [n, c, …] lying in memory as [n, …, c]; itself where it does already."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _group_constants(tiles: _Tiles, groups: int, extra: Tensor | None) -> dict[str, Any]:
    per_group = tiles.channels // groups
    return {
        "C": tiles.channels,
        "PER_GROUP": per_group,
        "WIDTH": programs.power_of_two(per_group),
        "CHUNKS": programs.power_of_two(tiles.chunks),
        "EXTRA": extra is not None,
    }


def group_norm_forward(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, extra: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, the table of scales and shifts, and each group's mean and inverse deviation."""
    samples, channels = x.shape[:2]
    tiles = _Tiles(samples, prod(x.shape[2:]), channels)
    sums = x.new_empty(samples, tiles.chunks, 2, channels, dtype=torch.float32)
    table = x.new_empty(samples, 2, channels, dtype=torch.float32)
    stats = x.new_empty(samples, groups, 2, dtype=torch.float32)
    out = torch.empty_like(x)
    programs.channel_sums[tiles.for_sums](x, sums, tiles.rows, tiles.chunks, **tiles.constants(tiles.each))
    share = 1 if extra is None else samples // len(extra)
    programs.scale_and_shift[samples, groups](
        sums, weight, bias, extra, table, stats, tiles.rows, tiles.chunks, share, groups, eps,
        **_group_constants(tiles, groups, extra),
    )  # fmt: skip
    programs.apply_table[tiles.for_each](x, table, out, tiles.rows, SILU=silu, **tiles.constants())
    return out, table, stats


class GroupNorm(Function):
    """:func:`group_norm_forward`'s result; keeps the input and a few numbers per channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, *rest: Any) -> Tensor:
        """``rest``: bias, eps, silu, extra."""
        bias, eps, silu, extra = rest
        out, table, stats = group_norm_forward(x, groups, weight, bias, eps, silu, extra)
        ctx.save_for_backward(x, weight, extra, table, stats)
        ctx.silu = silu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:
        """The input's gradient."""
        x, weight, extra, table, stats = ctx.saved_tensors
        given = innermost(given)
        samples, channels = x.shape[:2]
        groups = stats.shape[1]
        tiles = _Tiles(samples, prod(x.shape[2:]), channels)
        sums = x.new_empty(samples, tiles.chunks, 2, channels, dtype=torch.float32)
        slopes = x.new_empty(samples, 3, channels, dtype=torch.float32)
        out = torch.empty_like(x)
        programs.gradient_sums[tiles.for_sums](
            x, given, table, sums, tiles.rows, tiles.chunks, SILU=ctx.silu, **tiles.constants(tiles.each)
        )
        share = 1 if extra is None else samples // len(extra)
        programs.gradient_table[samples, groups](
            sums, stats, weight, extra, slopes, tiles.rows, tiles.chunks, share, groups,
            **_group_constants(tiles, groups, extra),
        )  # fmt: skip
        programs.apply_gradient[tiles.for_each](
            x, given, table, slopes, out, tiles.rows, SILU=ctx.silu, **tiles.constants()
        )
        return out, *[None] * 6


def merge_forward(x: Tensor, residual: Tensor, bias: Tensor | None, factor: Tensor | None) -> Tensor:
    """``residual + factor (x + bias)``, channels innermost."""
    out = torch.empty_like(x)
    channels = x.shape[1]
    tiles = _Tiles(1, x.numel() // channels, channels)
    programs.merge[tiles.for_each](
        x, bias, residual, factor, out, tiles.rows,
        BIAS=bias is not None, FACTOR=factor is not None, **tiles.constants(),
    )  # fmt: skip
    return out


class Merge(Function):
    """:func:`merge_forward`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, bias: Tensor | None, factor: Tensor | None) -> Tensor:
        """See :func:`merge_forward`."""
        ctx.save_for_backward(factor)
        return merge_forward(x, residual, bias, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:
        """Of ``x`` and of the residual."""
        (factor,) = ctx.saved_tensors
        return given if factor is None else given * factor.to(given.dtype), given, None, None


def _norm_rows(x: Tensor) -> tuple[int, int, int, int]:
    width = x.shape[-1]
    wide = programs.power_of_two(width)
    return x.numel() // width, width, wide, max(1, 2048 // wide)


def layer_norm_forward(
    x: Tensor,
    other: Tensor | None,
    extra: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    later: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x + other + extra`` (``x`` itself without both) and its norm over the last axis.

    ``later`` is added to the sum after the norm was taken; it needs one of the two others.
    """
    rows, width, wide, block = _norm_rows(x)
    total = x if other is None and extra is None else torch.empty_like(x)
    out = torch.empty_like(x)
    share = 1 if extra is None else rows * width // extra.numel()
    programs.layer_norm[(-(-rows // block),)](
        x, other, extra, weight, bias, later, total, out, rows, share, eps, D=width, WIDTH=wide, BLOCK=block,
        AFFINE=weight is not None, OTHER=other is not None, EXTRA=extra is not None,
        LATER=later is not None,
    )  # fmt: skip
    return total, out


def layer_norm_gradient(
    x: Tensor, weight: Tensor | None, given: Tensor, passed: Tensor | None, eps: float
) -> Tensor:
    """Of the norm's input: through the norm, and what was passed by it."""
    rows, width, wide, block = _norm_rows(x)
    out = torch.empty_like(x)
    programs.layer_norm_gradient[(-(-rows // block),)](
        x, weight, given.contiguous(), None if passed is None else passed.contiguous(), out, rows, eps,
        D=width, WIDTH=wide, BLOCK=block, AFFINE=weight is not None, ADD=passed is not None,
    )  # fmt: skip
    return out


class LayerNorm(Function):
    """Layer norm; keeps the input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """See :func:`layer_norm_forward`."""
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return layer_norm_forward(x, None, None, weight, bias, eps)[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:
        """The input's gradient."""
        x, weight = ctx.saved_tensors
        return layer_norm_gradient(x, weight, given, None, ctx.eps), None, None, None


class AddLayerNorm(Function):
    """The sum of up to three tensors and its layer norm; keeps the sum alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        """``rest``: other, extra, weight, bias, eps."""
        other, extra, weight, bias, eps = rest
        total, out = layer_norm_forward(x, other, extra, weight, bias, eps)
        ctx.save_for_backward(total, weight)
        ctx.eps = eps
        ctx.extra = None if extra is None else extra.shape
        return total, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, passed: Tensor, given: Tensor) -> Any:
        """The same for all, summed up for what was added to several rows."""
        total, weight = ctx.saved_tensors
        found = layer_norm_gradient(total, weight, given, passed, ctx.eps)
        of_extra = None
        if ctx.extra is not None and ctx.needs_input_grad[2]:
            of_extra = found.view(ctx.extra.numel() // found.shape[-1], -1, found.shape[-1]).sum(1)
            of_extra = of_extra.view(ctx.extra)
        return found, found if ctx.needs_input_grad[1] else None, of_extra, None, None, None


#: Rows and columns of one program's tile in the gated GELU.
_GATE = (8, 256)


def _gate_grid(rows: int, inner: int) -> tuple[int, int]:
    return -(-rows // _GATE[0]), -(-inner // _GATE[1])


def gate_forward(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """[…, 2 d] → […, d]."""
    inner = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], inner)
    rows = out.numel() // inner
    programs.gate[_gate_grid(rows, inner)](
        x, bias, out, rows, inner, BIAS=bias is not None, ROWS=_GATE[0], WIDTH=_GATE[1]
    )
    return out


class Gate(Function):
    """:func:`gate_forward`; keeps the input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """See :func:`gate_forward`."""
        ctx.save_for_backward(x, bias)
        return gate_forward(x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:
        """The input's gradient."""
        x, bias = ctx.saved_tensors
        inner = x.shape[-1] // 2
        rows = x.numel() // (2 * inner)
        out = torch.empty_like(x)
        programs.gate_gradient[_gate_grid(rows, inner)](
            x, bias, given.contiguous(), out, rows, inner,
            BIAS=bias is not None, ROWS=_GATE[0], WIDTH=_GATE[1],
        )  # fmt: skip
        return out, None


def _strides(x: Tensor) -> tuple[int, int, int, int]:
    """Of [outer, tokens, inner, heads, d]: outer, inner, head, token."""
    outer, token, inner, head, _ = x.stride()
    return outer, inner, head, token


def _attention_constants(q: Tensor) -> dict[str, int]:
    tokens, width = q.shape[1], q.shape[-1]
    length = 16 if tokens <= 16 else 32
    wide = max(16, programs.power_of_two(width))
    return {"D": width, "WIDTH": wide, "LENGTH": length, "num_warps": 1 if length * wide <= 2048 else 2}


def attention_forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention along ``tokens`` of [outer, tokens, inner, heads, d] with one set of strides; contiguous."""
    outer, tokens, inner, heads, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    programs.short_attention[outer * inner, heads](
        q, k, v, out, inner, *_strides(q), *_strides(out), tokens, width**-0.5, **_attention_constants(q)
    )
    return out


class Attention(Function):
    """:func:`attention_forward`; keeps the inputs alone."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :func:`attention_forward`."""
        ctx.save_for_backward(q, k, v)
        return attention_forward(q, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:
        """Of queries, keys and values."""
        q, k, v = ctx.saved_tensors
        if given.stride(-1) != 1:
            given = given.contiguous()
        outer, tokens, inner, heads, width = q.shape
        found = [torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3)]
        programs.short_attention_gradient[outer * inner, heads](
            q, k, v, given, *found, inner, *_strides(q), *_strides(given), *_strides(found[0]),
            tokens, width**-0.5, **_attention_constants(q),
        )  # fmt: skip
        return tuple(found)
