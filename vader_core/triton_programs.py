"""The Triton programs behind :mod:`vader_core.kernels`."""

# ruff: noqa: ANN001, ANN201, D103, N803, PLR0913 - Triton's own spelling: constants in capitals, pointers without types

from __future__ import annotations

import triton
import triton.language as tl


def power_of_two(value: int) -> int:
    """The least power of two that is not below ``value``."""
    return int(triton.next_power_of_2(value))


@triton.jit
def channel_sums(
    x, sums, rows, chunks, C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    sample = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    columns = tl.arange(0, WIDTH)
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    squares = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(0, ROWS, BLOCK):
        row = chunk * ROWS + start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (columns < C)[None, :]
        value = tl.load(x + (sample * rows + row[:, None]) * C + columns[None, :], mask=inside, other=0.0)
        value = value.to(tl.float32)
        total += value
        squares += value * value
    place = sums + (sample * chunks + chunk) * 2 * C + columns
    tl.store(place, tl.sum(total, 0), mask=columns < C)
    tl.store(place + C, tl.sum(squares, 0), mask=columns < C)


@triton.jit
def scale_and_shift(
    sums, weight, bias, table, rows, chunks, eps,
    C: tl.constexpr, PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    column = tl.arange(0, WIDTH)
    held = column < PER_GROUP
    channel = group * PER_GROUP + column
    chunk = tl.arange(0, CHUNKS)
    inside = (chunk < chunks)[:, None] & held[None, :]
    place = sums + (sample * chunks + chunk[:, None]) * 2 * C + channel[None, :]
    count = rows * PER_GROUP
    mean = tl.sum(tl.load(place, mask=inside, other=0.0)) / count
    square = tl.sum(tl.load(place + C, mask=inside, other=0.0)) / count
    inverse = 1.0 / tl.sqrt(tl.maximum(square - mean * mean, 0.0) + eps)
    scale = tl.load(weight + channel, mask=held, other=0.0).to(tl.float32) * inverse
    shift = tl.load(bias + channel, mask=held, other=0.0).to(tl.float32) - mean * scale
    tl.store(table + sample * 2 * C + channel, scale, mask=held)
    tl.store(table + sample * 2 * C + C + channel, shift, mask=held)


@triton.jit
def apply_table(
    x, table, out, rows,
    C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    columns = tl.arange(0, WIDTH)
    scale = tl.load(table + sample * 2 * C + columns, mask=columns < C, other=0.0)
    shift = tl.load(table + sample * 2 * C + C + columns, mask=columns < C, other=0.0)
    for start in range(0, ROWS, BLOCK):
        row = chunk * ROWS + start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (columns < C)[None, :]
        place = (sample * rows + row[:, None]) * C + columns[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        value = value * scale[None, :] + shift[None, :]
        if SILU:
            # rounded in between, as the separate operations are
            value = value.to(out.dtype.element_ty).to(tl.float32)
            value = value * tl.sigmoid(value)
        tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate(x, out, inner, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < inner
    value = tl.load(x + row * 2 * inner + column, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(x + row * 2 * inner + inner + column, mask=inside, other=0.0).to(tl.float32)
    # GELU by the error function; rounded in between as the separate operations are
    opened = 0.5 * given * (1.0 + tl.erf(given * 0.7071067811865476))
    opened = opened.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * inner + column, (value * opened).to(out.dtype.element_ty), mask=inside)


@triton.jit
def short_attention(
    q, k, v, out, in_batch, in_head, in_token, out_batch, out_head, out_token, length, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    token = tl.arange(0, LENGTH)
    column = tl.arange(0, WIDTH)
    inside = (token < length)[:, None] & (column < D)[None, :]
    place = batch * in_batch + head * in_head + token[:, None] * in_token + column[None, :]
    queries = tl.load(q + place, mask=inside, other=0.0)
    keys = tl.load(k + place, mask=inside, other=0.0)
    values = tl.load(v + place, mask=inside, other=0.0)
    scores = tl.dot(queries, tl.trans(keys)) * scale
    scores = tl.where((token < length)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(weights, 1)
    found = tl.dot(weights.to(values.dtype), values) / total[:, None]
    place = batch * out_batch + head * out_head + token[:, None] * out_token + column[None, :]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=inside)


@triton.jit
def layer_norm(
    x, weight, bias, out, rows, eps, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    AFFINE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < D)[None, :]
    place = row[:, None] * D + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1) / D
    centred = tl.where(inside, value - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    found = centred * inverse[:, None]
    if AFFINE:
        scale = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
        shift = tl.load(bias + column, mask=column < D, other=0.0).to(tl.float32)
        found = found * scale[None, :] + shift[None, :]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=inside)
