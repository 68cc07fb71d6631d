"""The Triton program that writes rows in float8; :mod:`vader_core.performance.fp8` decides when."""

# ruff: noqa: ANN001, ANN201, D103, N803 - Triton's own spelling: constants in capitals, pointers without types

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def scale_and_round(x, out, scales, width, LARGEST: tl.constexpr, TINIEST: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    value = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value), 0) / LARGEST, TINIEST)
    rounded = tl.minimum(tl.maximum(value / scale, -LARGEST), LARGEST)
    tl.store(out + row * width + columns, rounded.to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """One pass over contiguous rows [n, k]: float8 [n, k] and the scales, float32 [n, 1]."""
    from vader_core.performance.fp8 import FLOAT8, LARGEST, TINIEST

    rows, width = x.shape
    out = torch.empty(rows, width, device=x.device, dtype=FLOAT8)
    scales = torch.empty(rows, 1, device=x.device, dtype=torch.float32)
    wide = triton.next_power_of_2(width)
    scale_and_round[(rows,)](
        x, out, scales, width, LARGEST=LARGEST, TINIEST=TINIEST, WIDTH=wide,
        num_warps=4 if wide <= 4096 else 8,
    )  # fmt: skip
    return out, scales
