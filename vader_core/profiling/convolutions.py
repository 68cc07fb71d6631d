"""What a convolution holds on a CUDA device beside what it takes and gives, as torch and cuDNN run it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
CONVOLUTIONS = (_aten.convolution.default, _aten.convolution_backward.default)
_HALF = (torch.bfloat16, torch.float16)
_INNERMOST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _layout(func: Any, args: Any) -> torch.memory_format:
    """How cuDNN takes and gives the numbers: channels innermost where input or weight has them so."""
    given = args[:2] if func is _aten.convolution.default else args[:3]
    layout = _INNERMOST.get(given[0].ndim)
    if layout is None or not any(_innermost(one, layout) for one in given):
        return torch.contiguous_format
    return layout


def laid_out(func: Any, args: Any, out: Any) -> Any:
    """A convolution's result as cuDNN lays it out.

    Args:
        func: One of :data:`CONVOLUTIONS`.
        args: What it was given.
        out: What it gave.
    """
    layout = _layout(func, args)
    if layout is torch.contiguous_format:
        return out
    if func is _aten.convolution.default:
        return out.contiguous(memory_format=layout)
    return (None if out[0] is None else out[0].contiguous(memory_format=layout), *out[1:])


def beside(func: Any, args: Any, out: Any) -> int:
    """Bytes of the copies that are made of what a convolution takes and gives.

    What lies otherwise than cuDNN takes it is copied first. In 16 bits its kernels over three axes want
    channels innermost, and turn whatever lies otherwise in their workspace.

    Args:
        func: One of :data:`CONVOLUTIONS`.
        args: What it was given.
        out: What it gave.
    """
    taken = [args[0]]
    if func is _aten.convolution_backward.default and args[-1][1]:
        taken.append(args[1])  # of the input the weight's gradient alone has need
    layout = _layout(func, args)
    copied = sum(_bytes(one) for one in taken if not one.is_contiguous(memory_format=layout))
    if layout is not torch.contiguous_format or taken[0].ndim != 5 or taken[0].dtype not in _HALF:
        return copied
    made = [one for one in (out if isinstance(out, tuple) else (out,)) if one is not None and one.ndim == 5]
    return copied + sum(map(_bytes, (*taken, *made)))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _innermost(tensor: Tensor, layout: torch.memory_format) -> bool:
    return tensor.is_contiguous(memory_format=layout) and not tensor.is_contiguous()
