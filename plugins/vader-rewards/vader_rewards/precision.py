"""How a frozen model runs in float32, bfloat16 or float16 without losing its gradient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast to ``dtype`` where it is a half type; for float32 whatever the caller has set."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def differentiated(
    call: Callable[[Tensor], Tensor], pixels: Tensor, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """``call(pixels)`` in ``dtype``, as float32.

    In float16 a score's gradient is often smaller than the least number. It is scaled to a largest entry of
    about one where it enters the half precision part and scaled back in float32 at the pixels: a power of
    two, which changes no digit.
    """
    if dtype != torch.float16:
        with autocast(device, dtype):
            return call(pixels).float()
    scale = _Scale()
    with autocast(device, dtype):
        output = call(_Leave.apply(pixels, scale)).float()
    return _Enter.apply(output, scale)


class _Scale:
    """The factor of one call's backward pass."""

    factor: Tensor | float = 1.0


class _Enter(torch.autograd.Function):
    """Identity; going back, scales the gradient up to about one and remembers by how much."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: _Scale) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        largest = gradient.abs().amax()
        factor = torch.exp2(-torch.floor(torch.log2(largest.clamp(min=torch.finfo(torch.float32).tiny))))
        ctx.scale.factor = torch.where(largest > 0, factor, torch.ones_like(factor))
        return gradient * ctx.scale.factor, None


class _Leave(torch.autograd.Function):
    """Identity; going back, undoes the scaling."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: _Scale) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.scale.factor, None
