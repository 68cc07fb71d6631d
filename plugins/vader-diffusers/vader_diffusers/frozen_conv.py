"""Convolutions of frozen decoders that keep no input for the backward pass.

A convolution keeps its input only for its own weights' gradient. Frozen weights need none, so the gradient of
the input takes the weights and the input's shape alone. Every number stays the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RUN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class _WithoutInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        """``rest``: stride, padding, dilation, groups."""
        ctx.save_for_backward(weight)
        ctx.shape, ctx.rest = x.shape, rest
        return _RUN[weight.ndim - 2](x, weight, bias, *rest)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:
        """The input's gradient; of the input itself only the shape matters."""
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.rest
        shape_alone = given.new_empty(1).expand(ctx.shape)
        found = torch.ops.aten.convolution_backward(
            given, shape_alone, weight, None, stride, padding, dilation, False, [0] * len(stride), groups,
            (True, False, False),
        )  # fmt: skip
        return found[0], *[None] * 6


def _conv_forward(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    recorded = torch.is_grad_enabled() and x.requires_grad
    same = x.dtype == weight.dtype and not torch.is_autocast_enabled(x.device.type)
    if trained or not recorded or not same or isinstance(self.padding, str):
        return super(self.__class__, self)._conv_forward(x, weight, bias)
    padding = self.padding
    if self.padding_mode != "zeros":
        x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        padding = (0,) * len(padding)
    out: Tensor = _WithoutInput.apply(x, weight, bias, self.stride, padding, self.dilation, self.groups)
    return out


@cache
def _subclass(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"_conv_forward": _conv_forward, "__doc__": kind.__doc__})


def keep_no_inputs(module: nn.Module) -> int:
    """Make every convolution within ``module`` keep no input while its weights are frozen.

    A convolution becomes an instance of a subclass: names, ``isinstance`` and copies stay as they were.

    Returns:
        How many there are.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found = [part for part in module.modules() if isinstance(part, kinds)]
    for part in found:
        part.__class__ = _subclass(type(part))  # type: ignore[assignment, arg-type]
    return len(found)
