"""Weights drawn at random, for benchmarks and tests."""

from __future__ import annotations

import math
import zlib

import torch
from torch import nn


@torch.no_grad()
def fill_randomly(module: nn.Module, seed: int) -> None:
    """Fill every parameter, those that training would start from zero as well.

    Matrices and kernels get normal numbers of variance 1 / fan-in (embeddings: standard deviation 0.02),
    the gains of norms 1, biases 0. The same seed gives the same weights on the same kind of device; no
    global state is touched.

    Args:
        module: Any network, its parameters allocated where they shall live.
        seed: Any integer.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        generator = torch.Generator(parameter.device).manual_seed(seed + zlib.crc32(name.encode()))
        deviation = 0.02 if id(parameter) in embeddings else 1.0 / math.sqrt(parameter[0].numel())
        parameter.normal_(0.0, deviation, generator=generator)
