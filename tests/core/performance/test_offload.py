"""Modules that rest on the CPU are awake only while they are used."""

from __future__ import annotations

import torch
from levered import Net, example

from vader_core.performance.offload import Resting


def test_resting_modules_are_awake_only_within(net: Net) -> None:
    expected = net(example())
    resting = Resting([net], torch.device("cpu"))
    rested = net.line.weight.data_ptr()
    with resting.awake(), resting.awake():
        assert torch.equal(net(example()), expected)
    assert net.line.weight.data_ptr() == rested
