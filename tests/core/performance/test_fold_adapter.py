"""The adapter folded into the base weights: exact in float64, and undone bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from levered import Net, adapted, example
from reference_loop import assert_equal, make, step

from vader_core.lora.adapter import adapter_off
from vader_core.performance.fold_adapter import Folding


def test_folding_is_exact_in_float64_and_undone_bit_for_bit(net: Net) -> None:
    adapted(net, 0.3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plain = net(example())
    folding = Folding(net)
    folding.on()
    assert not torch.equal(net.get_parameter("line.base_layer.weight"), before["line.base_layer.weight"])
    torch.testing.assert_close(net(example()), plain, rtol=1e-12, atol=1e-12)
    folding.off()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(example()), plain)


def test_folding_leaves_a_switched_off_adapter_off(net: Net) -> None:
    adapted(net, 0.3)
    folding = Folding(net)
    with adapter_off(net):
        base = net(example())
        folding.on()
        assert torch.equal(net(example()), base)


@pytest.mark.parametrize("gradient", ["last:2", "steps:1,3"])
def test_the_gradient_of_a_folded_rollout_is_the_plain_one(registry, gradient: str) -> None:
    parts = make(registry, "tiny", {"schedule": "flow"})
    plain = step(parts, gradient=gradient)
    weights = {name: value.clone() for name, value in parts.backbone.denoiser.state_dict().items()}
    folding, folded = Folding(parts.backbone.denoiser), []
    predict = parts.backbone.predict
    parts.backbone.predict = lambda *given: folded.append(folding.folded) or predict(*given)
    found = step(replace(parts, model=replace(parts.model, levers=(folding,))), gradient=gradient)
    chosen = {"last:2": (3, 4), "steps:1,3": (1, 3)}[gradient]
    assert folded == [i not in chosen for i in range(5)]
    assert_equal(found, plain, 1e-12)
    assert not folding.folded
    after = parts.backbone.denoiser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in weights.items())
