"""Activations that wait for the backward pass elsewhere: no bit changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.performance.offload_activations import OffloadedActivations


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("recomputing", [False, True])
def test_offloaded_activations_change_no_bit(recomputing: bool, device: str) -> None:
    gradients, values = [], []
    for moving in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            blocks = [
                nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU()) for _ in range(3)
            ]
            x = torch.randn(2, 4, 8, 8).to(device).requires_grad_()
        stack = nn.Sequential(*blocks).requires_grad_(False).to(device)
        switch = RecomputeSwitch()
        recompute_blocks(stack, (nn.Conv2d,), switch)
        switch.on = recomputing

        def run(given: Tensor, stack: nn.Module = stack) -> Tensor:
            halves = stack(given).transpose(1, 3).chunk(2, dim=1)  # views of one storage
            return (halves[0] * halves[1]).exp()

        moved = OffloadedActivations(stack, torch.device(device), least=0)
        call = moved.around(run) if moving else run
        with torch.no_grad():
            call(x)
        assert moved.moved == 0
        out = call(x)
        (out.sum() + call(out.mean() * x).square().sum()).backward()
        values.append(out.detach())
        gradients.append(x.grad)
        assert (moved.moved > 0) is moving
        assert not moving or all(one() is None or one().users == 0 for one in moved._order)
    tolerance = 0.0 if device == "cpu" else 1e-5  # the device's sums may take another order each time
    torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_what_is_not_on_the_device_stays_where_it_is(device: str) -> None:
    here = torch.randn(4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    there = torch.ones(4, device=device, requires_grad=True)
    moved = OffloadedActivations(nn.Identity(), torch.device(device), least=0)
    moved.around(lambda x: x.exp())(here).sum().backward()
    assert moved.moved == 0
    torch.testing.assert_close(here.grad, here.detach().exp())
    moved.around(lambda x: x.exp())(there)
    assert moved.moved == 4 * 4
