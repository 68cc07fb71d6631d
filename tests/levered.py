"""A small network for the tests of what works on any network, with an adapter that has learned something."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora


class Net(nn.Module):
    """A convolution, a linear layer and two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.line = nn.Linear(8, 8)
        self.last = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 4, h, w] to [n, h w, 8]."""
        return self.last(self.line(self.norm(self.conv(x)).flatten(2).transpose(1, 2)))


def adapted(net: nn.Module, scale: float) -> nn.Module:
    """``net`` with a LoRA on every layer whose matrices B are normal with deviation ``scale``."""
    attach_lora(net, LoraSettings(rank=2, alpha=3.0, targets=("all",)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in adapter_parameters(net).items():
            if "lora_B" in name:
                value.copy_(scale * torch.randn(value.shape, generator=generator, dtype=value.dtype))
    return net


def example(dtype: torch.dtype = torch.float64) -> Tensor:
    """What the network is given: [2, 4, 6, 6]."""
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
