"""Compiled blocks: the same numbers, with a graph alone; what cannot be compiled is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.performance.compile_blocks import MOST_VARIANTS, CompiledBlocks, compiler_settings


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.compiled = 0

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        if torch.compiler.is_compiling():
            x = x + 0.0 * x.sum()
        else:
            self.compiled -= 1
        x = x if shift is None else x + shift
        return x + torch.tanh(self.linear(x))


class Unfriendly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def stack(recomputing: bool) -> tuple[nn.Sequential, RecomputeSwitch]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        blocks = nn.Sequential(*(Block() for _ in range(12)))
    switch = RecomputeSwitch()
    if recomputing:
        recompute_blocks(blocks, (Block,), switch)
        switch.on = True
    return blocks, switch


def result(blocks: nn.Sequential) -> tuple[Tensor, list[Any]]:
    x = torch.linspace(-1, 1, 18).view(3, 6).requires_grad_()
    out = x
    for block in blocks:
        out = block(out, shift=x[:1])
    out.square().sum().backward()
    return out.detach(), [x.grad, *(one.grad for one in blocks.parameters())]


@pytest.mark.parametrize("recomputing", [False, True])
def test_values_and_gradients_are_the_same(recomputing: bool) -> None:
    torch._dynamo.reset()
    expected = result(stack(recomputing)[0])
    blocks, _ = stack(recomputing)
    CompiledBlocks(list(blocks), backend="aot_eager")
    found = result(blocks)
    assert all(block.compiled == 0 for block in blocks), "a block ran as it is"
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-6)


def test_blocks_of_one_class_are_compiled_once_and_run_as_they_are_without_a_graph() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    blocks, _ = stack(recomputing=False)
    CompiledBlocks(list(blocks), backend="aot_eager")
    result(blocks)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    with torch.no_grad():
        blocks(torch.ones(1, 6))
    assert all(block.compiled == -1 for block in blocks)


def test_they_run_compiled_without_a_graph_too_where_that_is_asked_for() -> None:
    torch._dynamo.reset()
    expected = stack(recomputing=False)[0](torch.ones(1, 6))
    blocks, _ = stack(recomputing=False)
    CompiledBlocks(list(blocks), backend="aot_eager", everywhere=True)
    with torch.no_grad():
        found = blocks(torch.ones(1, 6))
    assert all(block.compiled == 0 for block in blocks), "a block ran as it is"
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-6)


def test_a_block_that_cannot_be_compiled_is_named() -> None:
    torch._dynamo.reset()
    block = Unfriendly()
    CompiledBlocks([block], backend="aot_eager")
    with pytest.raises(
        VaderError, match=r"performance\.compile_blocks: torch cannot compile Unfriendly .*leave it"
    ):
        block(torch.ones(3, requires_grad=True))


def test_the_compiler_takes_the_shapes_of_many_buckets() -> None:
    before = torch._dynamo.config.recompile_limit
    assert before < MOST_VARIANTS
    with compiler_settings(True):
        assert torch._dynamo.config.recompile_limit == MOST_VARIANTS
    with compiler_settings(False):
        assert torch._dynamo.config.recompile_limit == before
    assert torch._dynamo.config.recompile_limit == before
