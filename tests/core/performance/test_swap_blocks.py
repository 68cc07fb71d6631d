"""Blocks that come to the device one ahead of their turn: no bit changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from levered import adapted
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vader_core.lora.adapter import adapter_parameters
from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.performance.swap_blocks import SwappedBlocks


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.line = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.line(F.silu(self.norm(self.conv(x))).movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("own_checkpoint", [False, True])
def test_swapped_blocks_change_no_bit(own_checkpoint: bool, device: str) -> None:
    found = []
    for swapping in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            blocks = nn.ModuleList(_Branch() for _ in range(5))
            x = torch.randn(2, 8, 6, 6).to(device)
        for parameter in blocks.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        adapted(blocks.to(device), 0.3)
        switch = RecomputeSwitch()
        if not own_checkpoint:
            recompute_blocks(blocks, (_Branch,), switch)
        swapped = SwappedBlocks(list(blocks)[1:], torch.device(device)) if swapping else None
        for resting in [] if swapped is None else swapped.resting:
            resting.blank()

        def run(given: Tensor, blocks: Any = blocks) -> Tensor:
            for block in blocks:
                again = own_checkpoint and torch.is_grad_enabled()
                given = checkpoint(block, given, use_reentrant=False) if again else block(given)
            return given

        with torch.no_grad():
            plain = run(run(x))
        switch.on = True
        for _ in range(2):
            run(x).square().mean().backward()
        gradients = [value.grad for value in adapter_parameters(blocks).values()]
        found.append([plain, *gradients])
        if swapped is not None:
            assert swapped.bytes > 0
            assert sum(resting.here is not None for resting in swapped.resting) <= 1
            assert all(p.device.type == "cpu" for p in blocks[2].parameters() if not p.requires_grad)
            assert blocks[2].conv.weight.is_contiguous(memory_format=torch.channels_last)
    tolerance = 0.0 if device == "cpu" else 1e-5
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)
