"""The backward pass as a walk: the engine's gradients, holding as much."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from booked import Booked
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.profiling.graph_walk import UsedOnce, walk_all_backward, walk_backward


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        half, other = self.norm(self.conv(F.silu(x))).chunk(2, dim=1)
        return x + _Doubled.apply(torch.cat([half * other, other], dim=1))


def _stack(recomputing: bool) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stack = nn.Sequential(*(_Block() for _ in range(6)))
        given = torch.randn(1, 8, 32, 32)
    switch = RecomputeSwitch()
    recompute_blocks(stack, (_Block,), switch)
    switch.on = recomputing
    return stack, given.requires_grad_()


@pytest.mark.parametrize("recomputing", [False, True])
def test_the_walk_gives_the_engine_s_gradients_and_holds_as_much(recomputing: bool) -> None:
    found = []
    for walked in (False, True):
        stack, given = _stack(recomputing)
        with Booked() as booked:
            if walked:
                with UsedOnce.hooks(), patch("torch._C._current_graph_task_id", lambda: 0):
                    kept = stack(given)  # alive throughout, as a step's video is
                    walk_backward(kept.square().mean())
            else:
                kept = stack(given)
                kept.square().mean().backward()
        found.append((booked.ledger.peak, [given.grad, *(p.grad for p in stack.parameters())]))
    (engine_peak, engine), (walk_peak, walk) = found
    assert walk_peak == engine_peak
    assert all(torch.equal(a, b) for a, b in zip(engine, walk, strict=True) if a is not None)


def test_several_ends_go_back_in_one_walk() -> None:
    found = []
    for backward in (torch.autograd.backward, walk_all_backward):
        stack, given = _stack(False)
        first = stack(given)
        second = stack(first.tanh())  # the first end lies within the second's graph
        halves = second.chunk(2, dim=1)  # two ends of one node
        ends = [first, *halves, first.square().sum()]
        backward(ends, [first.detach(), *(half.detach() for half in halves), None])
        found.append([given.grad, *(parameter.grad for parameter in stack.parameters())])
    assert all(float(one.abs().max()) > 0 for one in found[0])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_one_end_needs_no_list() -> None:
    x = torch.full((3,), 2.0, requires_grad=True)
    walk_all_backward(x.square().sum())
    walk_all_backward(x.square(), torch.ones(3))
    assert x.grad.tolist() == [8.0, 8.0, 8.0]


def test_an_end_without_a_graph_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no graph was recorded"):
        walk_backward(torch.ones(()))
