"""Experts that rest: which are on the device, when, and that no number changes."""

from __future__ import annotations

import torch
from torch import nn

from vader_core.lora.adapter import LoraSettings, attach_lora
from vader_core.performance.rest_experts import RestingExperts

torch.set_num_threads(1)


def make() -> nn.ModuleDict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        experts = nn.ModuleDict({name: nn.Sequential(nn.Linear(4, 4)) for name in ("high", "low")})
    experts.double().requires_grad_(False)
    attach_lora(experts, LoraSettings(rank=2, alpha=2.0, targets=("low.0",)))
    return experts


def awake(resting: RestingExperts) -> list[bool]:
    return [expert.awake is not None for expert in resting.experts]


def test_one_is_awake_at_a_time():
    experts, x = make(), torch.ones(1, 4).double()
    with torch.no_grad():
        wanted = experts["high"](x), experts["low"](x)
    resting = RestingExperts(list(experts.values()), torch.device("cpu"))
    assert awake(resting) == [False, False]
    whole = resting.bytes
    with torch.no_grad():
        assert torch.equal(experts["high"](x), wanted[0])
        assert awake(resting) == [True, False]
        assert resting.bytes == whole // 2
        assert torch.equal(experts["low"](x), wanted[1])
        assert awake(resting) == [False, True]


def test_a_graph_keeps_its_expert_awake_until_it_is_gone():
    experts, x = make(), torch.ones(1, 4).double()
    resting = RestingExperts(list(experts.values()), torch.device("cpu"))
    out = experts["low"](x)
    with torch.no_grad():
        experts["high"](x)
    assert awake(resting) == [True, True]
    out.sum().backward()
    assert any(value.grad is not None for value in experts["low"].parameters())
    del out
    with torch.no_grad():
        experts["high"](x)
    assert awake(resting) == [True, False]


def test_adapters_stay_where_they_are():
    experts = make()
    resting = RestingExperts(list(experts.values()), torch.device("cpu"))
    held = {id(one) for expert in resting.experts for one in expert.resting._tensors}
    assert held == {id(value) for name, value in experts.named_parameters() if ".lora_" not in name}
