"""What surrounds the matrix products of a block, fused for the no-grad steps on CUDA, in 16 bits.

Everywhere else the plain torch operations. Statistics, softmax and sums are float32, rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.nn.functional import Switch, layer_without_adapter
from vader_core.precision import without_autocast

_HALF = (torch.bfloat16, torch.float16)

#: Of every layer norm (no weights).
EPS = 1e-6
#: The longest sequence of frames that is attended to in one tile.
MOST_FRAMES = 64
#: Most places of a frame that our own program attends to; torch's kernels take more.
MOST_PLACES = 1024
#: The longest text whose keys stay in one tile.
MOST_KEYS = 64
#: Tiles of queries that pass the keys of a short text.
TURNS = 4
#: Widest row of the residual stream that is taken into one tile.
WIDEST = 4096
#: Widest head that the attention programs take.
WIDEST_HEAD = 128


def usable(x: Tensor) -> bool:
    """Whether ``x`` is computed on with the fused programs."""
    return x.is_cuda and x.dtype in _HALF and _allowed()


def reachable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a model with weights of ``dtype`` on ``device`` computes with the fused programs now."""
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    return device.type == "cuda" and dtype in _HALF and _allowed()


def _allowed() -> bool:
    return Switch.on and not torch.is_grad_enabled() and _programs() is not None


def _programs() -> Any:
    return Switch.find("vader_opensora.triton_programs")


# -- the residual stream -----------------------------------------------------------------------------------


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of ``x`` [b, t, s, d] times 1 + ``scale`` plus ``shift``, which are [b, t or 1, 1, d]."""
    if _streams(x, x, shift, scale):
        return _stream(x, shift=shift, scale=scale)[1]
    # Autocast would return float32 and double the traffic; statistics are float32 inside all the same.
    with without_autocast(x.device):
        return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def gated(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """``x`` + ``gate`` * ``y``, [b, t, s, d] with a gate of [b, t or 1, 1, d]."""
    return _stream(x, y, gate)[0] if _streams(x, y, gate, gate) else x + gate * y


def added_and_modulated(x: Tensor, y: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` + ``y`` and that sum :func:`modulated`."""
    if _streams(x, y, shift, scale):
        return _stream(x, y, shift=shift, scale=scale)
    x = x + y
    return x, modulated(x, shift, scale)


def _streams(x: Tensor, y: Tensor, one: Tensor, other: Tensor) -> bool:
    return (
        usable(x)
        and x.is_contiguous()
        and y.is_contiguous()
        and x.dtype == y.dtype
        and x.shape[-1] <= WIDEST
        and one.stride() == other.stride()
        and one.stride(-1) == 1
    )


def _stream(
    x: Tensor,
    y: Tensor | None = None,
    gate: Tensor | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    programs = _programs()
    batch, frames, places, width = x.shape
    told = gate if shift is None else shift
    assert told is not None
    if told.shape[1] == 1:
        frames, places = 1, frames * places
    total = x if y is None else torch.empty_like(x)
    normed = x if shift is None else torch.empty_like(x)
    wide = programs.power_of_two(width)
    block = max(1, 8192 // wide)
    programs.stream[-(-places // block), batch * frames](
        x, y, gate, shift, scale, total, normed, places, frames, told.stride(0), told.stride(1), EPS,
        D=width, WIDTH=wide, BLOCK=block, ADD=y is not None, GATE=gate is not None, NORM=shift is not None,
        num_warps=8,
    )  # fmt: skip
    return total, normed


# -- attention ---------------------------------------------------------------------------------------------


def self_attention_fits(qkv: Tensor, heads: int) -> bool:
    """Whether :func:`within_frames` and :func:`across_frames` take the packed projections ``qkv``."""
    return usable(qkv) and qkv.is_contiguous() and qkv.shape[-1] <= 3 * heads * WIDEST_HEAD


def within_frames(qkv: Tensor, heads: int, norms: tuple[Tensor, Tensor] | None, eps: float) -> Tensor:
    """Attention among the places of each frame. May overwrite queries and keys.

    Args:
        qkv: [b, t, s, 3 * width], contiguous.
        heads: Divides the width.
        norms: Weights of the root-mean-square norms of queries and keys, [width / heads] each.
        eps: Of those norms.

    Returns:
        [b, t, s, width].
    """
    few = qkv.shape[2] <= MOST_PLACES
    if norms is not None:
        _head_norms(qkv, heads, norms, None, eps, queries=not few)
    q, k, v = qkv.flatten(0, 1).unflatten(-1, (3, heads, -1)).unbind(2)
    if few:
        out = _attend(q, k, v, None, None if norms is None else norms[0], eps)
    else:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return out.reshape(*qkv.shape[:3], -1)


def across_frames(
    qkv: Tensor,
    heads: int,
    norms: tuple[Tensor, Tensor] | None,
    rotation: tuple[Tensor, Tensor] | None,
    eps: float,
    *,
    turn_first: bool = False,
) -> Tensor:
    """Attention among the frames of each place. May overwrite queries and keys.

    Args:
        qkv: [b, t, s, 3 * width], contiguous.
        heads: Divides the width.
        norms: As of :func:`within_frames`.
        rotation: Cosines and sines of the rotary angles, [t, width / heads / 2] each; ``None`` turns nothing.
        eps: Of the norms.
        turn_first: Turn before the norms instead of after them.

    Returns:
        [b, t, s, width].
    """
    batch, frames, places, width = qkv.shape
    if frames > MOST_FRAMES:
        if norms is not None or rotation is not None:
            _head_norms(qkv, heads, norms, rotation, eps, turn_first=turn_first)
        q, k, v = (
            part.flatten(0, 1)
            for part in qkv.unflatten(-1, (3, heads, -1)).permute(3, 0, 2, 4, 1, 5).unbind(0)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return out.unflatten(0, (batch, places)).permute(0, 3, 1, 2, 4).flatten(3)
    programs = _programs()
    width //= 3
    head = width // heads
    first, rest = programs.two_tiles(head)
    length = max(programs.LEAST, programs.power_of_two(frames))
    out = qkv.new_empty(batch, frames, places, width)
    q_weight, k_weight = norms or (None, None)
    cos, sin = rotation or (None, None)
    programs.across_frames[(heads * batch * places,)](
        qkv, q_weight, k_weight, cos, sin, out, frames, places, eps, head**-0.5,
        HEADS=heads, D=head, FIRST=first, REST=rest, LENGTH=length,
        NORM=norms is not None, TURN=_turn(rotation, turn_first), num_warps=max(1, length // 16),
    )  # fmt: skip
    return out


def _turn(rotation: tuple[Tensor, Tensor] | None, first: bool) -> int:
    """The programs' word for where the rotation comes: 0 nowhere, 1 after the norms, 2 before them."""
    return 0 if rotation is None else 1 + first


def _head_norms(
    qkv: Tensor,
    heads: int,
    norms: tuple[Tensor, Tensor] | None,
    rotation: tuple[Tensor, Tensor] | None,
    eps: float,
    *,
    queries: bool = True,
    turn_first: bool = False,
) -> None:
    """Normalise and turn keys, and ``queries`` too, where they lie."""
    programs = _programs()
    frames, places = qkv.shape[1:3]
    tokens = qkv.numel() // qkv.shape[-1]
    head = qkv.shape[-1] // (3 * heads)
    first, rest = programs.two_tiles(head)
    q_weight, k_weight = norms or (None, None)
    cos, sin = rotation or (None, None)
    rows = 64
    programs.head_norms[-(-tokens * heads // rows), 1 + queries](
        qkv, q_weight, k_weight, cos, sin, tokens, frames, places, eps,
        HEADS=heads, D=head, FIRST=first, REST=rest, ROWS=rows,
        NORM=norms is not None, TURN=_turn(rotation, turn_first),
    )  # fmt: skip


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention to a few keys, [b, n, heads, d] to [b, l, heads, d].

    Args:
        q: Queries.
        k: Keys.
        v: Values, laid out as the keys are.
        mask: [b, 1, 1, l] bool, True where a key counts; ``None`` where all do, which lets torch's fastest
            kernel run where the program does not.

    Returns:
        [b, n, heads, d], contiguous where the programs run.
    """
    if not _attends(q, k, v):
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    return _attend(q, k, v, mask)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, norm: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """:func:`attention` by the programs; ``norm`` is the weight of the queries' norm, still to be taken."""
    programs = _programs()
    batch, queries, heads, width = q.shape
    keys = k.shape[1]
    first, rest = programs.two_tiles(width)
    out = q.new_empty(q.shape)
    counts = None if mask is None else mask.view(torch.uint8)
    strides = (
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), out.stride(0), out.stride(1),
        0 if counts is None else counts.stride(0),
    )  # fmt: skip
    tiles = {"D": width, "FIRST": first, "REST": rest, "MASK": mask is not None, "num_warps": 4}
    rows = 64
    blocks = -(-queries // rows)
    if keys <= MOST_KEYS and norm is None:
        turns = min(TURNS, blocks)
        programs.attend_few[heads, -(-blocks // turns), batch](
            q, k, v, counts, out, queries, keys, turns, width**-0.5, *strides,
            ROWS=rows, COLUMNS=max(programs.LEAST, programs.power_of_two(keys)), num_stages=2, **tiles,
        )  # fmt: skip
        return out
    columns = 64
    whole = keys // columns * columns
    tail = max(programs.LEAST, programs.power_of_two(keys - whole)) if keys > whole else 0
    programs.attend[heads, blocks, batch](
        q, k, v, counts, norm, out, queries, keys, whole, width**-0.5, eps, *strides,
        ROWS=rows, COLUMNS=columns, TAIL=tail, NORM=norm is not None, num_stages=3, **tiles,
    )  # fmt: skip
    return out


def _attends(q: Tensor, k: Tensor, v: Tensor) -> bool:
    width = q.shape[-1]
    packed = all(x.stride()[2:] == (width, 1) for x in (q, k, v))
    return (
        usable(q)
        and q.dtype == k.dtype == v.dtype
        and packed
        and k.stride() == v.stride()
        and width <= WIDEST_HEAD
    )


# -- linear layers -----------------------------------------------------------------------------------------


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """Tanh-GELU of a linear layer's output; one call of cuBLASLt where no adapter is active in the layer."""
    plain = layer_without_adapter(layer)
    if plain is None or not usable(x) or plain.weight.dtype != x.dtype or plain.bias is None:
        return F.gelu(layer(x), approximate="tanh")
    # On CUDA this is the tanh form; on a CPU it would be the exact one.
    out = torch._addmm_activation(plain.bias, x.flatten(0, -2), plain.weight.t(), use_gelu=True)
    return out.unflatten(0, x.shape[:-1])
