"""Fused kernels for the no-graph steps on CUDA, in 16 bits; everywhere else the plain torch operations.

Statistics, softmax and activations are worked out in float32 and rounded once, as torch's own kernels do.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_HALF = (torch.bfloat16, torch.float16)

#: The longest sequence that :func:`short_attention` takes into one tile.
SHORT = 32
#: Numbers that one program of a group norm holds at a time, and most partial sums of a sample.
TILE = 4096
CHUNKS = 256
#: Widest row that :func:`layer_norm` takes into one tile.
WIDEST = 4096


class Switch:
    """Whether the kernels are used at all; ``trainer.fused_kernels``."""

    on = True


def _usable(x: Tensor) -> bool:
    return (
        Switch.on
        and x.is_cuda
        and x.dtype in _HALF
        and not torch.is_grad_enabled()
        and _programs() is not None
    )


@lru_cache(maxsize=1)
def _programs() -> Any:
    if find_spec("triton") is None:
        return None
    from vader_core import triton_programs

    return triton_programs


def channels_innermost(x: Tensor) -> bool:
    """Whether ``x`` [n, c, …] lies in memory as [n, …, c] without gaps."""
    return x.ndim > 2 and x.movedim(1, -1).is_contiguous()


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, silu: bool = False
) -> Tensor:
    """``torch.nn.functional.group_norm``; with channels innermost it stays so and needs no copy.

    Args:
        x: [n, c, …].
        groups: Divides c.
        weight: [c].
        bias: [c].
        eps: Added to the variance.
        silu: Apply SiLU to the result.
    """
    if not (_usable(x) and channels_innermost(x) and not x.is_contiguous()):
        normed = F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)
        return F.silu(normed) if silu else normed
    samples, channels = x.shape[:2]
    rows = prod(x.shape[2:])
    programs = _programs()
    width = programs.power_of_two(channels)
    block = max(1, TILE // width)
    each = block * max(4, -(-rows // (block * CHUNKS)))
    chunks = -(-rows // each)
    sums = torch.empty(samples, chunks, 2, channels, device=x.device, dtype=torch.float32)
    table = torch.empty(samples, 2, channels, device=x.device, dtype=torch.float32)
    out = torch.empty_like(x)
    programs.channel_sums[samples, chunks](
        x, sums, rows, chunks, C=channels, WIDTH=width, ROWS=each, BLOCK=block
    )
    per_group = channels // groups
    programs.scale_and_shift[samples, groups](
        sums, weight, bias, table, rows, chunks, eps,
        C=channels, PER_GROUP=per_group, WIDTH=programs.power_of_two(per_group),
        CHUNKS=programs.power_of_two(chunks),
    )  # fmt: skip
    programs.apply_table[samples, -(-rows // (4 * block))](
        x, table, out, rows, C=channels, WIDTH=width, ROWS=4 * block, BLOCK=block, SILU=silu
    )
    return out


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """``torch.nn.functional.layer_norm`` over the last axis; weight and bias both, or neither."""
    width = x.shape[-1]
    if not (_usable(x) and x.is_contiguous() and width <= WIDEST and (weight is None) == (bias is None)):
        given = [None if one is None else one.to(x.dtype) for one in (weight, bias)]
        return F.layer_norm(x, (width,), given[0], given[1], eps)
    programs = _programs()
    out = torch.empty_like(x)
    rows = x.numel() // width
    wide = programs.power_of_two(width)
    block = max(1, 2048 // wide)
    programs.layer_norm[(-(-rows // block),)](
        x, weight, bias, out, rows, eps, D=width, WIDTH=wide, BLOCK=block, AFFINE=weight is not None
    )
    return out


def gated_gelu(x: Tensor) -> Tensor:
    """The first half of the last axis times the exact GELU of the second: […, 2 d] → […, d]."""
    if not (_usable(x) and x.is_contiguous()):
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)
    inner = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], inner)
    rows = out.numel() // inner
    programs = _programs()
    block = 1024
    programs.gate[rows, -(-inner // block)](x, out, inner, BLOCK=block)
    return out


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``scaled_dot_product_attention`` [b, heads, n, d]; many short sequences have their own kernel."""
    length, width = q.shape[-2:]
    short = length == k.shape[-2] and length <= SHORT and width <= 128 and len(q) >= 512
    if not (short and _usable(q) and q.stride() == k.stride() == v.stride() and q.stride(-1) == 1):
        return F.scaled_dot_product_attention(q, k, v)
    batch, heads = q.shape[:2]
    # [b, n, heads, d] in memory, so that the caller's transpose and reshape cost nothing
    out = q.new_empty(batch, length, heads, width).transpose(1, 2)
    programs = _programs()
    programs.short_attention[batch, heads](
        q, k, v, out, *q.stride()[:3], *out.stride()[:3], length, width**-0.5,
        D=width, WIDTH=max(16, programs.power_of_two(width)), LENGTH=16 if length <= 16 else 32,
        num_warps=1,
    )  # fmt: skip
    return out
