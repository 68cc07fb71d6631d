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
def _taken(place, present, D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr):
    """Rows of one head, from where each begins, as two tiles."""
    first = tl.arange(0, FIRST)[None, :]
    rest = FIRST + tl.arange(0, REST)[None, :]
    a = tl.load(place[:, None] + first, mask=present[:, None] & (first < D), other=0.0)
    b = tl.load(place[:, None] + rest, mask=present[:, None] & (rest < D), other=0.0)
    return a, b


@triton.jit
def _both_turned(
    a, b, cos, sin, present, position,
    D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Two tiles of a head's rows, turned by the rotary angles of their positions."""
    pair = tl.arange(0, FIRST // 2)[None, :]
    at = position[:, None] * (D // 2) + pair
    known = present[:, None] & (pair < D // 2)
    a = _turned(
        a, tl.load(cos + at, mask=known, other=0.0), tl.load(sin + at, mask=known, other=0.0), ROWS, FIRST
    )
    pair = FIRST // 2 + tl.arange(0, REST // 2)[None, :]
    at = position[:, None] * (D // 2) + pair
    known = present[:, None] & (pair < D // 2)
    b = _turned(
        b, tl.load(cos + at, mask=known, other=0.0), tl.load(sin + at, mask=known, other=0.0), ROWS, REST
    )
    return a, b


@triton.jit
def _shaped(
    a, b, weight, cos, sin, present, position, eps,
    D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr,
    NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Two tiles of a head's rows in float32, normalised and turned: TURN 1 after the norm, 2 before it."""
    first = tl.arange(0, FIRST)
    rest = FIRST + tl.arange(0, REST)
    a = a.to(tl.float32)
    b = b.to(tl.float32)
    if TURN == 2:
        a, b = _both_turned(a, b, cos, sin, present, position, D, FIRST, REST, ROWS)
    if NORM:
        inverse = 1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / D + eps)
        a *= inverse[:, None] * tl.load(weight + first, mask=first < D, other=0.0).to(tl.float32)[None, :]
        b *= inverse[:, None] * tl.load(weight + rest, mask=rest < D, other=0.0).to(tl.float32)[None, :]
    if TURN == 1:
        a, b = _both_turned(a, b, cos, sin, present, position, D, FIRST, REST, ROWS)
    return a, b


@triton.jit
def _put(place, present, a, b, D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr):
    """Two tiles of a head's rows, each to where it begins."""
    first = tl.arange(0, FIRST)[None, :]
    rest = FIRST + tl.arange(0, REST)[None, :]
    kind = place.dtype.element_ty
    tl.store(place[:, None] + first, a.to(kind), mask=present[:, None] & (first < D))
    tl.store(place[:, None] + rest, b.to(kind), mask=present[:, None] & (rest < D))


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
    # keys first: a grid of one leaves the queries
    part = 1 - tl.program_id(1)
    place = qkv + token * (3 * HEADS * D) + part * (HEADS * D) + (index % HEADS) * D
    x1, x2 = _taken(place, present, D, FIRST, REST)
    if part == 0:
        a, b = _shaped(x1, x2, q_weight, cos, sin, present, position, eps, D, FIRST, REST, ROWS, NORM, TURN)
    else:
        a, b = _shaped(x1, x2, k_weight, cos, sin, present, position, eps, D, FIRST, REST, ROWS, NORM, TURN)
    _put(place, present, a, b, D, FIRST, REST)


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
    step = HEADS * D
    kind = qkv.dtype.element_ty
    # powers of two rather than of e: one instruction
    scale *= 1.4426950408889634
    row = qkv + token * (3 * step) + head * D
    q1, q2 = _taken(row, present, D, FIRST, REST)
    k1, k2 = _taken(row + step, present, D, FIRST, REST)
    v1, v2 = _taken(row + 2 * step, present, D, FIRST, REST)
    a1, a2 = _shaped(q1, q2, q_weight, cos, sin, present, frame, eps, D, FIRST, REST, LENGTH, NORM, TURN)
    b1, b2 = _shaped(k1, k2, k_weight, cos, sin, present, frame, eps, D, FIRST, REST, LENGTH, NORM, TURN)
    scores = tl.dot(a1.to(kind), tl.trans(b1.to(kind)))
    scores = tl.dot(a2.to(kind), tl.trans(b2.to(kind)), scores)
    scores = tl.where(present[None, :], scores, float("-inf"))
    weights = tl.exp2(scores * scale - (tl.max(scores, 1) * scale)[:, None])
    share = (1.0 / tl.sum(weights, 1))[:, None]
    weights = weights.to(kind)
    found1 = tl.dot(weights, v1) * share
    found2 = tl.dot(weights, v2) * share
    _put(out + token * step + head * D, present, found1, found2, D, FIRST, REST)


@triton.jit
def _keys(
    k, v, counts, start, keys, k_token,
    D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, COLUMNS: tl.constexpr,
    MASK: tl.constexpr,
):  # fmt: skip
    """COLUMNS keys and values from ``start`` on, two tiles each, and which of them count."""
    column = start + tl.arange(0, COLUMNS)
    counted = column < keys
    first = tl.arange(0, FIRST)[None, :]
    rest = FIRST + tl.arange(0, REST)[None, :]
    inside1 = counted[:, None] & (first < D)
    inside2 = counted[:, None] & (rest < D)
    at = column[:, None] * k_token
    k1 = tl.load(k + at + first, mask=inside1, other=0.0)
    k2 = tl.load(k + at + rest, mask=inside2, other=0.0)
    v1 = tl.load(v + at + first, mask=inside1, other=0.0)
    v2 = tl.load(v + at + rest, mask=inside2, other=0.0)
    if MASK:
        counted &= tl.load(counts + column, mask=counted, other=0) != 0
    return k1, k2, v1, v2, counted


@triton.jit
def attend(
    q, k, v, counts, q_weight, out, queries, keys, whole, scale, eps,
    q_batch, q_token, k_batch, k_token, out_batch, out_token, counts_batch,
    D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TAIL: tl.constexpr, MASK: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Attention of [b, queries, heads, D] to the counted of [b, keys, heads, D].

    The first ``whole`` keys are taken COLUMNS at a time, TAIL covers what is left. NORM normalises queries.
    """
    # heads side by side in memory run side by side
    head = tl.program_id(0)
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    present = row < queries
    kind = q.dtype.element_ty
    q += batch * q_batch + head * D
    k += batch * k_batch + head * D
    v += batch * k_batch + head * D
    if MASK:
        counts += batch * counts_batch
    q1, q2 = _taken(q + row * q_token, present, D, FIRST, REST)
    if NORM:
        q1, q2 = _shaped(q1, q2, q_weight, None, None, present, row, eps, D, FIRST, REST, ROWS, True, 0)
        q1 = q1.to(kind)
        q2 = q2.to(kind)
    highest = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found1 = tl.zeros([ROWS, FIRST], tl.float32)
    found2 = tl.zeros([ROWS, REST], tl.float32)
    # powers of two rather than of e: one instruction
    scale *= 1.4426950408889634
    for start in range(0, whole, COLUMNS):
        k1, k2, v1, v2, counted = _keys(k, v, counts, start, whole, k_token, D, FIRST, REST, COLUMNS, MASK)
        scores = tl.dot(q1, tl.trans(k1))
        scores = tl.dot(q2, tl.trans(k2), scores)
        if MASK:
            scores = tl.where(counted[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        fading = tl.exp2(highest - higher)
        total = total * fading + tl.sum(weights, 1)
        found1 = tl.dot(weights.to(kind), v1, found1 * fading[:, None])
        found2 = tl.dot(weights.to(kind), v2, found2 * fading[:, None])
        highest = higher
    if TAIL > 0:
        k1, k2, v1, v2, counted = _keys(k, v, counts, whole, keys, k_token, D, FIRST, REST, TAIL, MASK)
        scores = tl.dot(q1, tl.trans(k1))
        scores = tl.dot(q2, tl.trans(k2), scores)
        scores = tl.where(counted[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        fading = tl.exp2(highest - higher)
        total = total * fading + tl.sum(weights, 1)
        found1 = tl.dot(weights.to(kind), v1, found1 * fading[:, None])
        found2 = tl.dot(weights.to(kind), v2, found2 * fading[:, None])
    share = (1.0 / total)[:, None]
    out += batch * out_batch + head * D
    _put(out + row * out_token, present, found1 * share, found2 * share, D, FIRST, REST)


# `turns` is not specialised, so that one turn stays a loop: where the same products stand in a straight line,
# with 64 rows, 64 columns and 4 warps on sm_90, ptxas 12.8 takes a matrix descriptor from a register that
# nothing wrote.
@triton.jit(do_not_specialize=["turns"])
def attend_few(
    q, k, v, counts, out, queries, keys, turns, scale,
    q_batch, q_token, k_batch, k_token, out_batch, out_token, counts_batch,
    D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    MASK: tl.constexpr,
):  # fmt: skip
    """:func:`attend` where COLUMNS covers all keys: they stay while ``turns`` times ROWS queries pass."""
    head = tl.program_id(0)
    batch = tl.program_id(2).to(tl.int64)
    kind = q.dtype.element_ty
    q += batch * q_batch + head * D
    out += batch * out_batch + head * D
    if MASK:
        counts += batch * counts_batch
    place = batch * k_batch + head * D
    k1, k2, v1, v2, counted = _keys(
        k + place, v + place, counts, 0, keys, k_token, D, FIRST, REST, COLUMNS, MASK
    )
    scale *= 1.4426950408889634
    for turn in range(turns):
        row = (tl.program_id(1) * turns + turn) * ROWS + tl.arange(0, ROWS)
        present = row < queries
        q1, q2 = _taken(q + row * q_token, present, D, FIRST, REST)
        scores = tl.dot(q1, tl.trans(k1))
        scores = tl.dot(q2, tl.trans(k2), scores)
        scores = tl.where(counted[None, :], scores, float("-inf"))
        weights = tl.exp2(scores * scale - (tl.max(scores, 1) * scale)[:, None])
        share = (1.0 / tl.sum(weights, 1))[:, None]
        found1 = tl.dot(weights.to(kind), v1) * share
        found2 = tl.dot(weights.to(kind), v2) * share
        _put(out + row * out_token, present, found1, found2, D, FIRST, REST)
