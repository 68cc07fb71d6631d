"""Modules on a device without a detour: built without storage, then filled from tensors or at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

OUTPUT_GAIN = 0.2
"""Random layers that close a residual branch are this much weaker, so that depth adds up to O(1)."""

_CLOSING = ("out_layers.3", "conv4.3", "proj_out", "to_out.0", "net.2", "conv2", "out_proj", "fc2")


def empty_module(build: Callable[[], Module], *, device: torch.device, dtype: torch.dtype) -> Module:
    """What `build` makes, frozen and in eval mode, with uninitialised weights of `dtype` on `device`."""
    with torch.device("meta"):
        module = build()
    # Past the libraries' own `to`, which warns about weights that a loader would have to keep in float32.
    nn.Module.to(module, dtype=dtype)
    module = module.to_empty(device=device)
    for name, buffer in module.named_buffers():
        if not name.endswith("position_ids"):
            raise RuntimeError(f"buffer {name} has no known content")
        buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand_as(buffer))
    return module.requires_grad_(False).eval()


@torch.no_grad()
def fill_randomly(module: nn.Module, seed: int) -> None:
    """Fills every parameter where it lies: nothing zero that matters, activations of order one.

    Matrices and kernels get normal numbers of variance 1 / fan-in, those that close a residual branch (the
    zeros of a fresh official model among them) a fifth of that width; normalisations are neutral, biases
    zero. The numbers depend on the seed and on the kind of device.
    """
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for prefix, layer in module.named_modules():
        normalises = isinstance(layer, nn.GroupNorm | nn.LayerNorm)
        for name, parameter in layer.named_parameters(recurse=False):
            if normalises:
                parameter.fill_(1.0 if name == "weight" else 0.0)
            elif parameter.ndim < 2:
                parameter.zero_()
            else:
                wide = isinstance(layer, nn.Embedding)
                std = 0.02 if wide else parameter[0].numel() ** -0.5
                gain = OUTPUT_GAIN if prefix.endswith(_CLOSING) else 1.0
                parameter.normal_(0.0, std * gain, generator=generator)
