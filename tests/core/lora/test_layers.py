"""LoRA layers that compute in the base layer's precision."""

from __future__ import annotations

import torch
from levered import Net, adapted, example
from torch import nn

from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora


def test_short_lora_is_base_plus_scaled_product(net: Net) -> None:
    base = {name: value.clone() for name, value in net.state_dict().items()}
    adapted(net, 0.3)
    tensors = adapter_parameters(net)
    merged = Net().double()
    for module in ("conv", "line"):
        down, up = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        weight = base[f"{module}.weight"]
        base[f"{module}.weight"] = weight + 1.5 * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    merged.load_state_dict(base)
    torch.testing.assert_close(net(example()), merged(example()), rtol=1e-12, atol=1e-12)


def test_lora_after_no_grad_under_autocast_still_learns(net: Net) -> None:
    adapted(net.float(), 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            net(example(torch.float32))
        net(example(torch.float32)).float().square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in adapter_parameters(net).values())


def test_a_target_that_a_block_is_named_by_too_means_the_layers_alone() -> None:
    net = nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    )
    found = attach_lora(net, LoraSettings(rank=2, alpha=2.0, targets=("0", "1")))
    assert found.modules == ("0", "1.1", "2.0")
