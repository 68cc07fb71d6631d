"""Fused kernels for denoisers on CUDA, in 16 bits; everywhere else the plain torch operations.

Statistics, softmax and activations are computed in float32 and rounded once, as torch's own kernels do.
They have gradients with respect to activations; where a weight of theirs is trained, torch's operations run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HALF = (torch.bfloat16, torch.float16)

#: The longest sequence that attention over short sequences takes into one tile.
SHORT = 32
#: Widest row that the layer norms take into one tile.
WIDEST = 4096
#: Most sequences in one of torch's attention calls, whose kernels put them on a CUDA grid's shorter axis.
MOST_SEQUENCES = 65535
#: Fewest places of a frame from which a convolution along the frames is faster in three dimensions than in
#: two (one H200, 24 frames of 320 to 1280 channels: 67 beside 89 µs at 2560 places, 27 beside 24 at 40).
WIDE_PLANE = 256


@lru_cache
def with_triton(name: str) -> Any:
    """The module ``name``, which imports Triton; ``None`` where that is not installed."""
    return None if find_spec("triton") is None else import_module(name)


class Switch:
    """Whether the kernels are used at all, and how their modules are found."""

    on = True
    find: Callable[[str], Any] = staticmethod(with_triton)


@contextmanager
def fused_kernels(on: bool) -> Iterator[None]:
    """Within, the kernels are used or not; before and after, as it was.

    The switch is the process's own, because the backward pass runs in threads of torch's.
    """
    before, Switch.on = Switch.on, on
    try:
        yield
    finally:
        Switch.on = before


def _launches() -> Any:
    return Switch.find("vader_core.nn.launches")


def _usable(x: Tensor, *weights: Tensor | None) -> bool:
    trained = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in weights)
    return Switch.on and not trained and x.is_cuda and x.dtype in _HALF and _launches() is not None


def _recorded(*inputs: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in inputs)


def channels_innermost(x: Tensor) -> bool:
    """Whether ``x`` [n, c, …] lies in memory as [n, …, c] without gaps."""
    return x.ndim > 2 and x.movedim(1, -1).is_contiguous()


def _innermost_alone(x: Tensor) -> bool:
    return channels_innermost(x) and not x.is_contiguous()


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """[m, c] as something to add to ``x`` [n, c, …], n a multiple of m: each row for n / m samples."""
    repeated = values.repeat_interleave(len(x) // len(values), dim=0) if len(values) != len(x) else values
    return repeated.reshape(*repeated.shape, *[1] * (x.ndim - 2)).to(x.dtype)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    silu: bool = False,
    extra: Tensor | None = None,
) -> Tensor:
    """``torch.nn.functional.group_norm``; with channels innermost it stays so and needs no copy.

    Args:
        x: [n, c, …].
        groups: Divides c.
        weight: [c].
        bias: [c].
        eps: Added to the variance.
        silu: Apply SiLU to the result.
        extra: [m, c], n a multiple of m: added to ``x`` first, each row to n / m samples in a row.
    """
    if not (_usable(x, weight, bias, extra) and _innermost_alone(x)):
        x = x if extra is None else x + _spread(extra, x)
        normed = F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)
        return F.silu(normed) if silu else normed
    launches = _launches()
    extra = None if extra is None else extra.contiguous()
    if _recorded(x):
        out: Tensor = launches.GroupNorm.apply(x, groups, weight, bias, eps, silu, extra)
        return out
    return launches.group_norm_forward(x, groups, weight, bias, eps, silu, extra)[0]


def merge(x: Tensor, residual: Tensor, bias: Tensor | None = None, factor: Tensor | None = None) -> Tensor:
    """``residual + factor (x + bias)`` in one pass.

    Args:
        x: [n, c, …].
        residual: Like ``x``.
        bias: [c].
        factor: One number; 1 where left out.
    """
    alike = x.dtype == residual.dtype and x.shape == residual.shape
    if not (alike and _usable(x, bias, factor) and channels_innermost(x) and channels_innermost(residual)):
        x = x if bias is None else x + _spread(bias[None].expand(len(x), -1), x)
        return residual + (x if factor is None else x * factor.to(x.dtype))
    launches = _launches()
    run = launches.Merge.apply if _recorded(x, residual) else launches.merge_forward
    out: Tensor = run(x, residual, bias, factor)
    return out


def _row_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    whole = x.is_contiguous() and x.shape[-1] <= WIDEST
    return whole and (weight is None) == (bias is None) and _usable(x, weight, bias)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """``torch.nn.functional.layer_norm`` over the last axis; weight and bias both, or neither."""
    if not _row_norm(x, weight, bias):
        given = [None if one is None else one.to(x.dtype) for one in (weight, bias)]
        return F.layer_norm(x, (x.shape[-1],), given[0], given[1], eps)
    launches = _launches()
    if _recorded(x):
        out: Tensor = launches.LayerNorm.apply(x, weight, bias, eps)
        return out
    return launches.layer_norm_forward(x, None, None, weight, bias, eps)[1]


def add_layer_norm(
    x: Tensor,
    other: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    extra: Tensor | None = None,
    later: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum ``x + other + extra``, and its layer norm over the last axis.

    Args:
        x: […, d].
        other: Like ``x``.
        weight: [d]; or neither weight nor bias.
        bias: [d].
        eps: Added to the variance.
        extra: [m, d], the rows of ``x`` a multiple of m: each for as many rows in a row.
        later: [d], added to the sum that is returned, but not to what is normalised.

    Returns:
        Both in the shape of ``x``; the sum shares no memory with what was given.
    """
    given = [one for one in (other, extra) if one is not None]
    alike = other is None or x.shape == other.shape
    alike = alike and all(one.dtype == x.dtype and one.is_contiguous() for one in given)
    if not (given and alike and _row_norm(x, weight, bias)):
        total = x if other is None else x + other
        if extra is not None:
            rows = total.reshape(len(extra), -1, x.shape[-1])
            total = (rows + extra[:, None]).reshape(x.shape)
        out = layer_norm(total, weight, bias, eps)
        return (total if later is None else total + later), out
    launches = _launches()
    if _recorded(x, *given, later):
        total, out = launches.AddLayerNorm.apply(x, other, extra, weight, bias, eps)
        return (total if later is None else total + later), out
    total, out = launches.layer_norm_forward(x, other, extra, weight, bias, eps, later)
    return total, out


def gated_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The first half of the last axis times the exact GELU of the second, after an addition.

    Args:
        x: […, 2 d].
        bias: [2 d], added to ``x`` first.

    Returns:
        […, d].
    """
    if not (_usable(x, bias) and x.is_contiguous()):
        value, gate = (x if bias is None else x + bias).chunk(2, dim=-1)
        return value * F.gelu(gate)
    launches = _launches()
    out: Tensor = (launches.Gate.apply if _recorded(x) else launches.gate_forward)(x, bias)
    return out


def _short(q: Tensor, k: Tensor, v: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """The kernel for many short sequences [outer, tokens, inner, heads, d], where it fits."""
    outer, tokens, inner, heads, width = q.shape
    many = outer * inner * heads >= 512
    fits = tokens <= SHORT and width <= 128 and many and q.shape == k.shape == v.shape
    alike = q.stride() == k.stride() == v.stride() and q.stride(-1) == 1 and q.dtype == k.dtype == v.dtype
    if not (fits and alike and _usable(q)):
        return None
    launches = _launches()
    run: Callable[[Tensor, Tensor, Tensor], Tensor]
    run = launches.Attention.apply if _recorded(q, k, v) else launches.attention_forward
    return run


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``scaled_dot_product_attention`` [b, heads, n, d]; many short sequences have their own kernel."""
    turned = [part.transpose(1, 2).unsqueeze(2) for part in (q, k, v)]
    run = _short(*turned)
    if run is None:
        return F.scaled_dot_product_attention(q, k, v)
    # [b, n, heads, d] in memory, so that the caller's transpose and reshape cost nothing
    return run(*turned).squeeze(2).transpose(1, 2)


def attention_over_frames(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention along the frames at each place.

    Args:
        q: [b, t, p, heads * d].
        k: Like ``q``.
        v: Like ``q``.
        heads: How many.

    Returns:
        [b, t, p, heads * d].
    """
    parts = [part.unflatten(-1, (heads, -1)) for part in (q, k, v)]
    run = _short(*parts)
    if run is not None:
        return run(*parts).flatten(3)
    batch, _, places = q.shape[:3]
    rows = [part.permute(0, 2, 3, 1, 4).flatten(0, 1) for part in parts]
    pieces = zip(*(part.split(MOST_SEQUENCES) for part in rows), strict=True)
    out = torch.cat([F.scaled_dot_product_attention(*piece) for piece in pieces])
    return out.unflatten(0, (batch, places)).permute(0, 3, 1, 2, 4).flatten(3)


class _FrozenConv(torch.autograd.Function):
    """A convolution whose weight is not trained: keeps no activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        """``rest``: stride, padding, dilation, groups."""
        ctx.save_for_backward(weight)
        ctx.shape, ctx.rest = x.shape, rest
        return F.conv2d(x, weight, bias, *rest)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:
        """The input's gradient; of the input itself only the shape matters."""
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.rest
        shape_alone = given.new_empty(1).expand(ctx.shape)
        found = torch.ops.aten.convolution_backward(
            given, shape_alone, weight, None, stride, padding, dilation, False, (0, 0), groups,
            (True, False, False),
        )  # fmt: skip
        return found[0], *[None] * 6


def _along_frames(conv: nn.Conv3d) -> bool:
    """Whether a convolution looks along the first of its three axes alone, and keeps all sizes."""
    taps = conv.kernel_size[0]
    kept = conv.kernel_size[1:] == (1, 1) and conv.padding == (taps // 2, 0, 0) and taps % 2 == 1
    return kept and conv.stride == conv.dilation == (1, 1, 1) and conv.groups == 1


def _at_places(conv: nn.Conv2d) -> bool:
    """Whether a convolution looks at each place alone."""
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


def autocasting(x: Tensor) -> bool:
    """Whether autocast is on where ``x`` is; some devices know of none."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _in_one_dtype(layer: Any, x: Tensor) -> bool:
    """Whether neither ``x`` nor the weight has to be cast, by autocast or otherwise."""
    wanted = torch.get_autocast_dtype(x.device.type) if autocasting(x) else x.dtype
    return bool(x.dtype == layer.weight.dtype == wanted)


def convolve(conv: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A convolution's result, perhaps without its bias.

    Torch adds the bias of a convolution in a pass of its own, which whatever follows can do on its way. A
    convolution along the frames alone becomes a two-dimensional one over (frame, place) where that has better
    kernels or keeps no activations; one that looks at single places becomes a matrix product.

    Args:
        conv: ``nn.Conv2d``, ``nn.Conv3d``, or something in its place: that is called as it is.
        x: [n, c, …].

    Returns:
        The result, and the bias [c'] that is still to be added to it, if there is one.
    """
    conv = _bare(conv)
    if not (Switch.on and isinstance(conv, nn.Conv2d | nn.Conv3d) and conv.padding_mode == "zeros"):
        return conv(x), None
    if not _in_one_dtype(conv, x):
        return conv(x), None
    if isinstance(conv, nn.Conv2d):
        return _convolved_frames(conv, x, None), conv.bias
    if not _along_frames(conv):
        return conv(x), None
    if not torch.is_grad_enabled() and x.shape[3] * x.shape[4] >= WIDE_PLANE:
        return F.conv3d(x, conv.weight, None, padding=conv.padding), conv.bias
    taps = conv.kernel_size[0]
    rest = (1, 1), (taps // 2, 0), (1, 1), 1
    out = _convolved(x.flatten(3), conv.weight.squeeze(-1), None, *rest)
    return out.unflatten(3, x.shape[3:]), conv.bias


def convolve_with_bias(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of [n, c, h, w] and its bias, for where nothing that follows could add it."""
    conv = _bare(conv)
    if not isinstance(conv, nn.Conv2d):
        out: Tensor = conv(x)
        return out
    if Switch.on and conv.padding_mode == "zeros" and _in_one_dtype(conv, x):
        return _convolved_frames(conv, x, conv.bias)
    # past a forward pass that is this function itself
    return nn.Conv2d.forward(conv, x)


def _convolved_frames(conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    if _at_places(conv) and _innermost_alone(x):
        return F.linear(x.movedim(1, -1), conv.weight.flatten(1), bias).movedim(-1, 1)
    return _convolved(x, conv.weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if _recorded(x) and not trained and not isinstance(rest[1], str):
        out: Tensor = _FrozenConv.apply(x, weight, bias, *rest)
        return out
    return F.conv2d(x, weight, bias, *rest)


class _Doubled(torch.autograd.Function):
    """Nearest neighbours at twice the size, channels innermost; copies eight bytes at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """[n, c, h, w] → [n, c, 2 h, 2 w]."""
        rows = x.movedim(1, -1)
        packed = rows.view(torch.int64) if rows.shape[-1] * rows.itemsize % 8 == 0 else rows
        samples, height, width, wide = packed.shape
        spread = packed[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
        return spread.reshape(samples, 2 * height, 2 * width, wide).view(x.dtype).movedim(-1, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: Tensor) -> Tensor:
        """The sum of each place's four."""
        rows = given.movedim(1, -1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        return rows.sum((2, 4)).movedim(-1, 1)


def doubled(x: Tensor) -> Tensor:
    """Nearest neighbours at twice the height and width: [n, c, h, w] → [n, c, 2 h, 2 w]."""
    if Switch.on and _innermost_alone(x) and x.storage_offset() * x.itemsize % 8 == 0:
        out: Tensor = _Doubled.apply(x)
        return out
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The sum of two biases [c], where there are any."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _bare(layer: Any) -> Any:
    """The layer itself, or the one within an adapter of this toolkit that does not count at the moment."""
    while hasattr(layer, "base_layer") and not getattr(layer, "counting", True):
        layer = layer.base_layer
    return layer


def layer_without_adapter(layer: Any) -> nn.Linear | None:
    """The plain linear layer whose output is ``layer``'s at the moment, if there is one."""
    plain = _bare(layer)
    return plain if type(plain) is nn.Linear else None


def project(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A linear layer's result, perhaps without its bias, which whatever follows can add on its way.

    Args:
        layer: ``nn.Linear``, or something in its place: that is called as it is where it does more.
        x: […, d].

    Returns:
        The result, and the bias [d'] that is still to be added to it, if there is one.
    """
    plain = layer_without_adapter(layer) if Switch.on else None
    if plain is None or not _in_one_dtype(plain, x):
        return layer(x), None
    return F.linear(x, plain.weight), plain.bias


def accumulating(layer: nn.Module, x: Tensor) -> nn.Linear | None:
    """The layer in a form that :func:`accumulate` takes, where no graph is recorded and it has one."""
    plain = layer_without_adapter(layer) if Switch.on and not torch.is_grad_enabled() else None
    return plain if plain is not None and _in_one_dtype(plain, x) else None


def accumulate(total: Tensor, layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's matrix product, without its bias, added to ``total``: one call, no pass over the sum.

    Args:
        total: […, d']; overwritten where it is contiguous.
        layer: From :func:`accumulating`.
        x: […, d].

    Returns:
        […, d'].
    """
    rows = total.contiguous().flatten(0, -2)
    return rows.addmm_(x.flatten(0, -2), layer.weight.t()).view(total.shape)
