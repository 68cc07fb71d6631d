"""The Triton programs behind :mod:`vader_opensora.kernels`.

A head's channels are taken as two tiles, FIRST and REST wide: 72 is 64 and 16 rather than one of 128.
"""

# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0913 - Triton's own spelling: constants in capitals, pointers without types

from __future__ import annotations

import triton
import triton.language as tl

#: Least side of a tile that enters a matrix product.
LEAST = 16


def power_of_two(value: int) -> int:
    """The least power of two that is not below ``value``."""
    return int(triton.next_power_of_2(value))


def two_tiles(width: int) -> tuple[int, int]:
    """Two powers of two, ``LEAST`` or more each, that together cover ``width`` channels."""
    first = max(LEAST, power_of_two(width) // 2)
    return first, max(LEAST, power_of_two(max(1, width - first)))


@triton.jit
def stream(
    x, y, gate, shift, scale, total, normed, rows, frames, told_sample, told_frame, eps,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ADD: tl.constexpr, GATE: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Residual stream x + gate y, and its layer norm under shift and scale; either part alone too."""
    group = tl.program_id(1).to(tl.int64)
    sample, frame = group // frames, group % frames
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, WIDTH)
    held = column < D
    inside = (row < rows)[:, None] & held[None, :]
    place = (group * rows + row[:, None]) * D + column[None, :]
    told = sample * told_sample + frame * told_frame + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        given = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        if GATE:
            given *= tl.load(gate + told, mask=held, other=0.0).to(tl.float32)[None, :]
        value += given
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if NORM:
        moved = tl.load(shift + told, mask=held, other=0.0).to(tl.float32)
        wider = 1.0 + tl.load(scale + told, mask=held, other=0.0).to(tl.float32)
        mean = tl.sum(value, 1) / D
        centred = tl.where(inside, value - mean[:, None], 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
        found = centred * inverse[:, None] * wider[None, :] + moved[None, :]
        tl.store(normed + place, found.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _turned(x, cos, sin, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    even, odd = tl.split(tl.reshape(x, [ROWS, WIDTH // 2, 2]))
    return tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), [ROWS, WIDTH])


@triton.jit
def _head(
    x, weight, cos, sin, row, present, position, eps,
    D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr,
    NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Rows of one head, normalised and turned, as two float32 tiles; ``row`` is where each begins."""
    first = tl.arange(0, FIRST)
    rest = FIRST + tl.arange(0, REST)
    inside = present[:, None]
    a = tl.load(x + row[:, None] + first[None, :], mask=inside & (first < D)[None, :], other=0.0)
    b = tl.load(x + row[:, None] + rest[None, :], mask=inside & (rest < D)[None, :], other=0.0)
    a = a.to(tl.float32)
    b = b.to(tl.float32)
    if NORM:
        inverse = 1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / D + eps)
        a *= inverse[:, None] * tl.load(weight + first, mask=first < D, other=0.0).to(tl.float32)[None, :]
        b *= inverse[:, None] * tl.load(weight + rest, mask=rest < D, other=0.0).to(tl.float32)[None, :]
    if TURN:
        pair = tl.arange(0, FIRST // 2)
        at = position[:, None] * (D // 2) + pair[None, :]
        known = inside & (pair < D // 2)[None, :]
        a = _turned(
            a, tl.load(cos + at, mask=known, other=0.0), tl.load(sin + at, mask=known, other=0.0), ROWS, FIRST
        )
        pair = FIRST // 2 + tl.arange(0, REST // 2)
        at = position[:, None] * (D // 2) + pair[None, :]
        known = inside & (pair < D // 2)[None, :]
        b = _turned(
            b, tl.load(cos + at, mask=known, other=0.0), tl.load(sin + at, mask=known, other=0.0), ROWS, REST
        )
    return a, b


@triton.jit
def head_norms(
    qkv, q_weight, k_weight, cos, sin, rows, frames, places, eps,
    HEADS: tl.constexpr, D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr,
    NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Queries and keys of [rows, 3, HEADS, D], normalised and turned where they lie."""
    index = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token = index // HEADS
    present = token < rows
    position = (token // places) % frames
    part = tl.program_id(1)
    row = token * (3 * HEADS * D) + part * (HEADS * D) + (index % HEADS) * D
    if part == 0:
        a, b = _head(qkv, q_weight, cos, sin, row, present, position, eps, D, FIRST, REST, ROWS, NORM, TURN)
    else:
        a, b = _head(qkv, k_weight, cos, sin, row, present, position, eps, D, FIRST, REST, ROWS, NORM, TURN)
    first = tl.arange(0, FIRST)
    rest = FIRST + tl.arange(0, REST)
    kind = qkv.dtype.element_ty
    tl.store(qkv + row[:, None] + first[None, :], a.to(kind), mask=present[:, None] & (first < D)[None, :])
    tl.store(qkv + row[:, None] + rest[None, :], b.to(kind), mask=present[:, None] & (rest < D)[None, :])


@triton.jit
def across_frames(
    qkv, q_weight, k_weight, cos, sin, out, frames, places, eps, scale,
    HEADS: tl.constexpr, D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, LENGTH: tl.constexpr,
    NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Attention of a head among the frames of a place, from [b, t, s, 3, HEADS, D] to [b, t, s, HEADS D]."""
    # heads side by side in memory run side by side
    head = tl.program_id(0) % HEADS
    at = tl.program_id(0) // HEADS
    sample = (at // places).to(tl.int64)
    place = at % places
    frame = tl.arange(0, LENGTH)
    present = frame < frames
    token = (sample * frames + frame) * places + place
    row = token * (3 * HEADS * D) + head * D
    step = HEADS * D
    kind = qkv.dtype.element_ty
    q1, q2 = _head(qkv, q_weight, cos, sin, row, present, frame, eps, D, FIRST, REST, LENGTH, NORM, TURN)
    k1, k2 = _head(
        qkv + step, k_weight, cos, sin, row, present, frame, eps, D, FIRST, REST, LENGTH, NORM, TURN
    )
    v1, v2 = _head(
        qkv + 2 * step, k_weight, cos, sin, row, present, frame, eps, D, FIRST, REST, LENGTH, False, False
    )
    scores = tl.dot(q1.to(kind), tl.trans(k1.to(kind)))
    scores = tl.dot(q2.to(kind), tl.trans(k2.to(kind)), scores) * scale
    scores = tl.where(present[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    shares = 1.0 / tl.sum(weights, 1)
    weights = weights.to(kind)
    first = tl.arange(0, FIRST)
    rest = FIRST + tl.arange(0, REST)
    found = tl.dot(weights, v1.to(kind)) * shares[:, None]
    to = out + (token * step + head * D)[:, None]
    tl.store(to + first[None, :], found.to(kind), mask=present[:, None] & (first < D)[None, :])
    found = tl.dot(weights, v2.to(kind)) * shares[:, None]
    tl.store(to + rest[None, :], found.to(kind), mask=present[:, None] & (rest < D)[None, :])


@triton.jit
def attend(
    q, k, v, counts, out, queries, keys, scale,
    q_batch, q_token, k_batch, k_token, out_batch, out_token, counts_batch,
    D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SPAN: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Attention of [b, queries, heads, D] to the counted of [b, keys, heads, D]; SPAN covers the keys."""
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = (row < queries)[:, None]
    first = tl.arange(0, FIRST)
    rest = FIRST + tl.arange(0, REST)
    held1 = (first < D)[None, :]
    held2 = (rest < D)[None, :]
    kind = q.dtype.element_ty
    place = q + batch * q_batch + head * D + row[:, None] * q_token
    q1 = tl.load(place + first[None, :], mask=present & held1, other=0.0)
    q2 = tl.load(place + rest[None, :], mask=present & held2, other=0.0)
    highest = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found1 = tl.zeros([ROWS, FIRST], tl.float32)
    found2 = tl.zeros([ROWS, REST], tl.float32)
    k += batch * k_batch + head * D
    v += batch * k_batch + head * D
    # powers of two rather than of e: one instruction
    scale *= 1.4426950408889634
    for start in range(0, SPAN, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        counted = column < keys
        there = counted[:, None]
        at = column[:, None] * k_token
        k1 = tl.load(k + at + first[None, :], mask=there & held1, other=0.0)
        k2 = tl.load(k + at + rest[None, :], mask=there & held2, other=0.0)
        if MASK:
            counted &= tl.load(counts + batch * counts_batch + column, mask=counted, other=0) != 0
        scores = tl.dot(q1, tl.trans(k1))
        scores = tl.dot(q2, tl.trans(k2), scores) * scale
        scores = tl.where(counted[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fading = tl.exp2(highest - higher)
        total = total * fading + tl.sum(weights, 1)
        v1 = tl.load(v + at + first[None, :], mask=there & held1, other=0.0)
        v2 = tl.load(v + at + rest[None, :], mask=there & held2, other=0.0)
        found1 = tl.dot(weights.to(kind), v1, found1 * fading[:, None])
        found2 = tl.dot(weights.to(kind), v2, found2 * fading[:, None])
        highest = higher
    place = out + batch * out_batch + head * D + row[:, None] * out_token
    tl.store(place + first[None, :], (found1 / total[:, None]).to(kind), mask=present & held1)
    tl.store(place + rest[None, :], (found2 / total[:, None]).to(kind), mask=present & held2)
