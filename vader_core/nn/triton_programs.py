"""The Triton programs behind :mod:`vader_core.nn.functional`, launched by :mod:`vader_core.nn.launches`."""

# ruff: noqa: ANN001, ANN201, ANN202, D103, N803, PLR0913 - Triton's own spelling: constants in capitals, pointers without types

from __future__ import annotations

import triton
import triton.language as tl


def power_of_two(value: int) -> int:
    """The least power of two that is not below ``value``."""
    return int(triton.next_power_of_2(value))


# Group norm over [sample, row, channel]; by a table, the second pass multiplies and adds.


@triton.jit
def _activated(value, scale, shift, dtype: tl.constexpr):
    """The normalised value, rounded as a separate norm would round it, and its sigmoid."""
    normed = (value * scale + shift).to(dtype).to(tl.float32)
    return normed, tl.sigmoid(normed)


@triton.jit
def _before_silu(given, value, scale, shift, dtype: tl.constexpr, SILU: tl.constexpr):
    """The gradient of the normalised value from that of the result."""
    if SILU:
        normed, open_ = _activated(value, scale, shift, dtype)
        given = given * open_ * (1.0 + normed * (1.0 - open_))
    return given


@triton.jit
def channel_sums(
    x, sums, rows, chunks, C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    chunk = tl.program_id(0)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    sample = tl.program_id(2).to(tl.int64)
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    squares = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(0, ROWS, BLOCK):
        row = chunk * ROWS + start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (columns < C)[None, :]
        place = (sample * rows + row[:, None]) * C + columns[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        total += value
        squares += value * value
    place = sums + (sample * chunks + chunk) * 2 * C + columns
    tl.store(place, tl.sum(total, 0), mask=columns < C)
    tl.store(place + C, tl.sum(squares, 0), mask=columns < C)


@triton.jit
def scale_and_shift(
    sums, weight, bias, extra, table, stats, rows, chunks, share, groups, eps,
    C: tl.constexpr, PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, CHUNKS: tl.constexpr,
    EXTRA: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    column = tl.arange(0, WIDTH)
    held = column < PER_GROUP
    channel = group * PER_GROUP + column
    chunk = tl.arange(0, CHUNKS)
    inside = (chunk < chunks)[:, None] & held[None, :]
    place = sums + (sample * chunks + chunk[:, None]) * 2 * C + channel[None, :]
    total = tl.sum(tl.load(place, mask=inside, other=0.0), 0)
    squares = tl.sum(tl.load(place + C, mask=inside, other=0.0), 0)
    added = tl.zeros([WIDTH], tl.float32)
    if EXTRA:
        # sums of x + e from those of x
        added = tl.load(extra + (sample // share) * C + channel, mask=held, other=0.0).to(tl.float32)
        squares += 2.0 * added * total + rows * added * added
        total += rows * added
    count = rows * PER_GROUP
    mean = tl.sum(total) / count
    inverse = 1.0 / tl.sqrt(tl.maximum(tl.sum(squares) / count - mean * mean, 0.0) + eps)
    scale = tl.load(weight + channel, mask=held, other=0.0).to(tl.float32) * inverse
    shift = tl.load(bias + channel, mask=held, other=0.0).to(tl.float32) + (added - mean) * scale
    tl.store(table + sample * 2 * C + channel, scale, mask=held)
    tl.store(table + sample * 2 * C + C + channel, shift, mask=held)
    tl.store(stats + (sample * groups + group) * 2, mean)
    tl.store(stats + (sample * groups + group) * 2 + 1, inverse)


@triton.jit
def apply_table(
    x, table, out, rows,
    C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    sample = tl.program_id(2).to(tl.int64)
    scale = tl.load(table + sample * 2 * C + columns, mask=columns < C, other=0.0)
    shift = tl.load(table + sample * 2 * C + C + columns, mask=columns < C, other=0.0)
    for start in range(0, ROWS, BLOCK):
        row = chunk * ROWS + start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (columns < C)[None, :]
        place = (sample * rows + row[:, None]) * C + columns[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        if SILU:
            normed, open_ = _activated(value, scale[None, :], shift[None, :], out.dtype.element_ty)
            value = normed * open_
        else:
            value = value * scale[None, :] + shift[None, :]
        tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gradient_sums(
    x, given, table, sums, rows, chunks,
    C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    sample = tl.program_id(2).to(tl.int64)
    scale = tl.load(table + sample * 2 * C + columns, mask=columns < C, other=0.0)
    shift = tl.load(table + sample * 2 * C + C + columns, mask=columns < C, other=0.0)
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    products = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(0, ROWS, BLOCK):
        row = chunk * ROWS + start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (columns < C)[None, :]
        place = (sample * rows + row[:, None]) * C + columns[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(given + place, mask=inside, other=0.0).to(tl.float32)
        grad = _before_silu(grad, value, scale[None, :], shift[None, :], x.dtype.element_ty, SILU)
        total += grad
        products += grad * value
    place = sums + (sample * chunks + chunk) * 2 * C + columns
    tl.store(place, tl.sum(total, 0), mask=columns < C)
    tl.store(place + C, tl.sum(products, 0), mask=columns < C)


@triton.jit
def gradient_table(
    sums, stats, weight, extra, table, rows, chunks, share, groups,
    C: tl.constexpr, PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, CHUNKS: tl.constexpr,
    EXTRA: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    column = tl.arange(0, WIDTH)
    held = column < PER_GROUP
    channel = group * PER_GROUP + column
    chunk = tl.arange(0, CHUNKS)
    inside = (chunk < chunks)[:, None] & held[None, :]
    place = sums + (sample * chunks + chunk[:, None]) * 2 * C + channel[None, :]
    total = tl.sum(tl.load(place, mask=inside, other=0.0), 0)
    products = tl.sum(tl.load(place + C, mask=inside, other=0.0), 0)
    mean = tl.load(stats + (sample * groups + group) * 2)
    inverse = tl.load(stats + (sample * groups + group) * 2 + 1)
    # the mean as x without the addition sees it
    middle = tl.zeros([WIDTH], tl.float32) + mean
    if EXTRA:
        middle -= tl.load(extra + (sample // share) * C + channel, mask=held, other=0.0).to(tl.float32)
    scale = tl.load(weight + channel, mask=held, other=0.0).to(tl.float32) * inverse
    count = rows * PER_GROUP
    first = tl.sum(scale * total) / count
    second = tl.sum(scale * (products - middle * total)) / count * inverse * inverse
    tl.store(table + sample * 3 * C + channel, scale, mask=held)
    tl.store(table + sample * 3 * C + C + channel, tl.zeros([WIDTH], tl.float32) - second, mask=held)
    tl.store(table + sample * 3 * C + 2 * C + channel, second * middle - first, mask=held)


@triton.jit
def apply_gradient(
    x, given, table, slopes, out, rows,
    C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    sample = tl.program_id(2).to(tl.int64)
    scale = tl.load(table + sample * 2 * C + columns, mask=columns < C, other=0.0)
    shift = tl.load(table + sample * 2 * C + C + columns, mask=columns < C, other=0.0)
    of_given = tl.load(slopes + sample * 3 * C + columns, mask=columns < C, other=0.0)
    of_value = tl.load(slopes + sample * 3 * C + C + columns, mask=columns < C, other=0.0)
    constant = tl.load(slopes + sample * 3 * C + 2 * C + columns, mask=columns < C, other=0.0)
    for start in range(0, ROWS, BLOCK):
        row = chunk * ROWS + start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (columns < C)[None, :]
        place = (sample * rows + row[:, None]) * C + columns[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(given + place, mask=inside, other=0.0).to(tl.float32)
        grad = _before_silu(grad, value, scale[None, :], shift[None, :], x.dtype.element_ty, SILU)
        grad = grad * of_given[None, :] + value * of_value[None, :] + constant[None, :]
        tl.store(out + place, grad.to(out.dtype.element_ty), mask=inside)


@triton.jit
def merge(
    x, bias, residual, factor, out, rows,
    C: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    BIAS: tl.constexpr, FACTOR: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    added = tl.zeros([WIDTH], tl.float32)
    if BIAS:
        added += tl.load(bias + columns, mask=columns < C, other=0.0).to(tl.float32)
    for start in range(0, ROWS, BLOCK):
        row = chunk * ROWS + start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (columns < C)[None, :]
        place = row[:, None] * C + columns[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + added[None, :]
        if FACTOR:
            value *= tl.load(factor).to(tl.float32)
        value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


# Gated GELU.


@triton.jit
def _normal(value):
    """The normal distribution's integral up to ``value``, and its density there.

    The error function by Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most: half a unit in the last place
    of a float32 near 1.
    """
    size = tl.abs(value) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * size)
    bell = tl.exp(-size * size)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * tail * bell
    return tl.where(value < 0.0, tail, 1.0 - tail), bell * 0.3989422804014327


@triton.jit
def gate(x, bias, out, rows, inner, BIAS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < inner)[None, :]
    place = row[:, None] * 2 * inner + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(x + place + inner, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + column, mask=column < inner, other=0.0).to(tl.float32)[None, :]
        given += tl.load(bias + inner + column, mask=column < inner, other=0.0).to(tl.float32)[None, :]
    below, _ = _normal(given)
    # rounded in between as the separate operations are
    opened = (given * below).to(out.dtype.element_ty).to(tl.float32)
    tl.store(
        out + row[:, None] * inner + column[None, :], (value * opened).to(out.dtype.element_ty), mask=inside
    )


@triton.jit
def gate_gradient(
    x, bias, given, out, rows, inner, BIAS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < inner)[None, :]
    place = row[:, None] * 2 * inner + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    knob = tl.load(x + place + inner, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + column, mask=column < inner, other=0.0).to(tl.float32)[None, :]
        knob += tl.load(bias + inner + column, mask=column < inner, other=0.0).to(tl.float32)[None, :]
    grad = tl.load(given + row[:, None] * inner + column[None, :], mask=inside, other=0.0).to(tl.float32)
    below, density = _normal(knob)
    tl.store(out + place, (grad * knob * below).to(out.dtype.element_ty), mask=inside)
    grad = grad * value * (below + knob * density)
    tl.store(out + place + inner, grad.to(out.dtype.element_ty), mask=inside)


# Attention over short sequences: one program a sequence and head, everything in one tile.


@triton.jit
def short_attention(
    q, k, v, out, inner, in_outer, in_inner, in_head, in_token, out_outer, out_inner, out_head, out_token,
    length, scale, D: tl.constexpr, WIDTH: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    outer, within = sequence // inner, sequence % inner
    token = tl.arange(0, LENGTH)
    column = tl.arange(0, WIDTH)
    inside = (token < length)[:, None] & (column < D)[None, :]
    place = outer * in_outer + within * in_inner + head * in_head
    place += token[:, None] * in_token + column[None, :]
    queries = tl.load(q + place, mask=inside, other=0.0)
    keys = tl.load(k + place, mask=inside, other=0.0)
    values = tl.load(v + place, mask=inside, other=0.0)
    scores = tl.dot(queries, tl.trans(keys)) * scale
    scores = tl.where((token < length)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(weights, 1)
    found = tl.dot(weights.to(values.dtype), values) / total[:, None]
    place = outer * out_outer + within * out_inner + head * out_head
    place += token[:, None] * out_token + column[None, :]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=inside)


@triton.jit
def short_attention_gradient(
    q, k, v, given, of_q, of_k, of_v, inner, in_outer, in_inner, in_head, in_token,
    given_outer, given_inner, given_head, given_token, out_outer, out_inner, out_head, out_token,
    length, scale, D: tl.constexpr, WIDTH: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    outer, within = sequence // inner, sequence % inner
    token = tl.arange(0, LENGTH)
    column = tl.arange(0, WIDTH)
    inside = (token < length)[:, None] & (column < D)[None, :]
    place = outer * in_outer + within * in_inner + head * in_head
    place += token[:, None] * in_token + column[None, :]
    queries = tl.load(q + place, mask=inside, other=0.0)
    keys = tl.load(k + place, mask=inside, other=0.0)
    values = tl.load(v + place, mask=inside, other=0.0)
    place = outer * given_outer + within * given_inner + head * given_head
    place += token[:, None] * given_token + column[None, :]
    grad = tl.load(given + place, mask=inside, other=0.0)
    scores = tl.dot(queries, tl.trans(keys)) * scale
    scores = tl.where((token < length)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    place = outer * out_outer + within * out_inner + head * out_head
    place += token[:, None] * out_token + column[None, :]
    found = tl.dot(tl.trans(weights).to(grad.dtype), grad)
    tl.store(of_v + place, found.to(of_v.dtype.element_ty), mask=inside)
    of_weights = tl.dot(grad, tl.trans(values))
    of_scores = weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None]) * scale
    found = tl.dot(of_scores.to(keys.dtype), keys)
    tl.store(of_q + place, found.to(of_q.dtype.element_ty), mask=inside)
    found = tl.dot(tl.trans(of_scores).to(queries.dtype), queries)
    tl.store(of_k + place, found.to(of_k.dtype.element_ty), mask=inside)


# Layer norm, with additions before it.


@triton.jit
def layer_norm(
    x, other, extra, weight, bias, later, total, out, rows, share, eps, D: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, AFFINE: tl.constexpr, OTHER: tl.constexpr,
    EXTRA: tl.constexpr, LATER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < D)[None, :]
    place = row[:, None] * D + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if OTHER:
        value += tl.load(other + place, mask=inside, other=0.0).to(tl.float32)
    if EXTRA:
        spread = (row // share)[:, None] * D + column[None, :]
        value += tl.load(extra + spread, mask=inside, other=0.0).to(tl.float32)
    if OTHER or EXTRA:
        rounded = value.to(total.dtype.element_ty)
        kept = rounded
        if LATER:
            late = tl.load(later + column, mask=column < D, other=0.0).to(tl.float32)
            kept = (value + late[None, :]).to(total.dtype.element_ty)
        tl.store(total + place, kept, mask=inside)
        value = rounded.to(tl.float32)
    mean = tl.sum(value, 1) / D
    centred = tl.where(inside, value - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    found = centred * inverse[:, None]
    if AFFINE:
        scale = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
        shift = tl.load(bias + column, mask=column < D, other=0.0).to(tl.float32)
        found = found * scale[None, :] + shift[None, :]
    tl.store(out + place, found.to(out.dtype.element_ty), mask=inside)


@triton.jit
def layer_norm_gradient(
    x, weight, given, passed, out, rows, eps, D: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, AFFINE: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < D)[None, :]
    place = row[:, None] * D + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(given + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1) / D
    centred = tl.where(inside, value - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    centred = centred * inverse[:, None]
    if AFFINE:
        grad *= tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    first = tl.sum(grad, 1) / D
    second = tl.sum(grad * centred, 1) / D
    found = (grad - first[:, None] - centred * second[:, None]) * inverse[:, None]
    if ADD:
        found += tl.load(passed + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, found.to(out.dtype.element_ty), mask=inside)
