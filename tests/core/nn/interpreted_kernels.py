"""Every fused kernel and its gradient in Triton's interpreter, beside float64 torch.

TRITON_INTERPRET=1 must be set.
Prints one line per case: name, relative error of the results, relative error of the gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from unittest.mock import patch

import torch
from torch import Tensor, nn

from vader_core.nn import functional as kernels
from vader_core.nn import launches
from vader_core.nn.fused import fuse_norms

Given = Sequence[Tensor]


def _relative(found: Given, exact: Given) -> float:
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))


def _results(run: Callable[..., Tensor | tuple[Tensor, ...]], given: Given, seed: int) -> tuple[Given, Given]:
    generator = torch.Generator().manual_seed(seed)
    found = run(*given)
    found = found if isinstance(found, tuple) else (found,)
    wanted = [torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part) for part in found]
    return found, torch.autograd.grad(found, given, wanted)


def compared(
    fused: Callable[..., Tensor | tuple[Tensor, ...]],
    plain: Callable[..., Tensor | tuple[Tensor, ...]],
    *given: Tensor,
) -> tuple[float, float]:
    """Relative errors of results and gradients of ``fused`` in float32 from ``plain`` in float64."""
    exact = _results(plain, [tensor.double().detach().requires_grad_() for tensor in given], 5)
    found = _results(fused, [tensor.detach().requires_grad_() for tensor in given], 5)
    with torch.no_grad():
        return _relative(found[0], exact[0]), _relative(found[1], exact[1])


def _group_norm(shape: tuple[int, ...], groups: int, silu: bool, rows: int) -> tuple[float, float]:
    weight, bias = torch.randn(2, shape[1])
    extra = torch.randn(rows, shape[1]) if rows else None

    def fused(x: Tensor) -> Tensor:
        out: Tensor = launches.GroupNorm.apply(x, groups, weight, bias, 1e-5, silu, extra)
        assert out.stride() == x.stride()
        return out

    def plain(x: Tensor) -> Tensor:
        added = None if extra is None else extra.double()
        pair = weight.double(), bias.double()
        return kernels.group_norm(x, groups, *pair, 1e-5, silu=silu, extra=added)

    return compared(fused, plain, launches.innermost(torch.randn(shape) + 0.5))


def _layer_norm(affine: bool, added: bool, spread: bool) -> tuple[float, float]:
    pair = torch.randn(2, 40).unbind() if affine else (None, None)
    wide = [one if one is None else one.double() for one in pair]
    given = [torch.randn(7, 3, 40)]
    given += [torch.randn(7, 3, 40)] if added else []
    given += [torch.randn(7, 40)] if spread else []

    def parts(rest: Given) -> tuple[Tensor | None, Tensor | None]:
        return rest[0] if added else None, rest[-1] if spread else None

    def fused(x: Tensor, *rest: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not rest:
            return launches.LayerNorm.apply(x, *pair, 1e-5)
        return launches.AddLayerNorm.apply(x, *parts(rest), *pair, 1e-5)

    def plain(x: Tensor, *rest: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not rest:
            return kernels.layer_norm(x, *wide, 1e-5)
        other, extra = parts(rest)
        return kernels.add_layer_norm(x, other, *wide, 1e-5, extra=extra)

    return compared(fused, plain, *given)


def _later() -> tuple[float, float]:
    x, other, weight, bias, later = torch.randn(7, 40), torch.randn(7, 40), *torch.randn(3, 40)
    wide = [one.double() for one in (x, other, weight, bias, later)]
    found = launches.layer_norm_forward(x, other, None, weight, bias, 1e-5, later)
    exact = kernels.add_layer_norm(*wide[:4], 1e-5, later=wide[4])
    return _relative(found[:1], exact[:1]), _relative(found[1:], exact[1:])


def _merge(factor: Tensor | None) -> tuple[float, float]:
    x, residual = (launches.innermost(torch.randn(2, 48, 3, 5)) for _ in range(2))
    bias = torch.randn(48)
    return compared(
        lambda a, b: launches.Merge.apply(a, b, bias, factor),
        lambda a, b: kernels.merge(a, b, bias.double(), None if factor is None else factor.double()),
        x,
        residual,
    )


def _attention(outer: int, tokens: int, inner: int, heads: int, width: int) -> tuple[float, float]:
    def plain(joint: Tensor) -> Tensor:
        parts = [part.flatten(3) for part in joint.unbind(3)]
        return kernels.attention_over_frames(*parts, heads)

    def fused(joint: Tensor) -> Tensor:
        return launches.Attention.apply(*joint.unbind(3)).flatten(3)

    return compared(fused, plain, torch.randn(outer, tokens, inner, 3, heads, width))


class _Norms(nn.Module):
    """The two norms that a foreign network has."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.rows = nn.GroupNorm(4, 24), nn.LayerNorm(24)
        for parameter in self.parameters():
            parameter.data.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(self.groups(x).movedim(1, -1).contiguous())


def _modules() -> tuple[float, float]:
    """Foreign modules on their way to the programs; on the CPU they would run torch's own operations."""
    plain = _Norms().requires_grad_(False)
    fused, launched = copy.deepcopy(plain), []
    assert fuse_norms(fused) == 2
    found = launches.GroupNorm.forward, launches.LayerNorm.forward

    def counted(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *given: launched.append(forward) or forward(*given)

    with (
        patch.object(kernels, "_usable", lambda *_: True),
        patch.object(launches.GroupNorm, "forward", counted(found[0])),
        patch.object(launches.LayerNorm, "forward", counted(found[1])),
    ):
        errors = compared(fused, plain.double(), launches.innermost(torch.randn(3, 24, 5, 7) + 0.5))
    assert launched == list(found), "the modules did not reach their programs"
    return errors


def cases() -> Iterator[tuple[str, float, float]]:
    """Ragged sizes: widths that are no powers of two, rows that fill no tile."""
    yield "group norm", *_group_norm((3, 96, 5, 7), 4, True, 3)
    yield "group norm, odd width", *_group_norm((4, 40, 3, 9), 4, False, 2)
    yield "group norm, groups of ten", *_group_norm((2, 320, 3, 11), 32, True, 0)
    yield "group norm over frames", *_group_norm((2, 64, 3, 5, 7), 32, True, 2)
    yield "group norm of rows", *_group_norm((1, 24, 700), 3, False, 1)
    yield "layer norm", *_layer_norm(True, False, False)
    yield "sum and layer norm", *_layer_norm(True, True, False)
    yield "spread sum and layer norm", *_layer_norm(False, True, True)
    yield "spread alone and layer norm", *_layer_norm(True, False, True)
    yield "sum, something later, and layer norm", *_later()
    yield "fused modules", *_modules()
    wide, bias = 3 * torch.randn(13, 600), torch.randn(600)
    yield "gated GELU", *compared(launches.Gate.apply, kernels.gated_gelu, wide)
    yield (
        "gated GELU after a bias",
        *compared(
            lambda x: launches.Gate.apply(x, bias), lambda x: kernels.gated_gelu(x, bias.double()), wide
        ),
    )
    yield "merge", *_merge(None)
    yield "merge by a share", *_merge(torch.tensor([0.3]))
    yield "attention of 12", *_attention(2, 12, 3, 2, 64)
    yield "attention of 17", *_attention(1, 17, 2, 3, 40)
    yield "attention of 5", *_attention(3, 5, 1, 2, 72)


if __name__ == "__main__":
    torch.manual_seed(0)
    for case, error, gradient_error in cases():
        print(f"{case}: {error:.3e} {gradient_error:.3e}")
