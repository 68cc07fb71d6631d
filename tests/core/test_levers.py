"""Levers: on equals off to rounding; the parts that only CUDA runs carry the mark ``gpu``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.lora.adapter import LoraSettings, adapter_off, adapter_parameters, attach_lora
from vader_core.nn.fused import fuse_norms, swap_forward
from vader_core.performance.offload import Resting


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.line = nn.Linear(8, 8)
        self.last = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.line(self.norm(self.conv(x)).flatten(2).transpose(1, 2)))


@pytest.fixture
def net() -> Iterator[_Net]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield _Net().double()


def _adapted(net: nn.Module, scale: float) -> nn.Module:
    attach_lora(net, LoraSettings(rank=2, alpha=3.0, targets=("all",)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in adapter_parameters(net).items():
            if "lora_B" in name:
                value.copy_(scale * torch.randn(value.shape, generator=generator, dtype=value.dtype))
    return net


def _input(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def test_short_lora_is_base_plus_scaled_product(net: _Net) -> None:
    base = {name: value.clone() for name, value in net.state_dict().items()}
    _adapted(net, 0.3)
    tensors = adapter_parameters(net)
    merged = _Net().double()
    for module in ("conv", "line"):
        down, up = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        weight = base[f"{module}.weight"]
        base[f"{module}.weight"] = weight + 1.5 * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    merged.load_state_dict(base)
    torch.testing.assert_close(net(_input()), merged(_input()), rtol=1e-12, atol=1e-12)


def test_lora_after_no_grad_under_autocast_still_learns(net: _Net) -> None:
    net = _adapted(net.float(), 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            net(_input(torch.float32))
        net(_input(torch.float32)).float().square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in adapter_parameters(net).values())


def test_folding_is_exact_in_float64_and_undone_bit_for_bit(net: _Net) -> None:
    from vader_core.performance.fold_adapter import Folding

    _adapted(net, 0.3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plain = net(_input())
    folding = Folding(net)
    folding.set(True)
    assert not torch.equal(net.get_parameter("line.base_layer.weight"), before["line.base_layer.weight"])
    torch.testing.assert_close(net(_input()), plain, rtol=1e-12, atol=1e-12)
    folding.set(False)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(_input()), plain)


def test_folding_leaves_a_switched_off_adapter_off(net: _Net) -> None:
    from vader_core.performance.fold_adapter import Folding

    _adapted(net, 0.3)
    folding = Folding(net)
    with adapter_off(net):
        base = net(_input())
        folding.set(True)
        assert torch.equal(net(_input()), base)


def test_fused_modules_keep_numbers_names_and_gradients(net: _Net) -> None:
    x = _input().requires_grad_()
    plain = net(x)
    gradient = torch.autograd.grad(plain.sum(), x)[0]
    names = list(net.state_dict())
    assert fuse_norms(net) == 2
    assert isinstance(net.norm, nn.GroupNorm)
    assert list(net.state_dict()) == names
    fused = net(x)
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(fused.sum(), x)[0], gradient, rtol=1e-9, atol=1e-12)


def test_swap_forward_touches_that_class_alone(net: _Net) -> None:
    def doubled(self: Any, x: Tensor) -> Tensor:
        return 2 * nn.Linear.forward(self, x)

    assert swap_forward(net, nn.Linear, doubled) == 1
    x = torch.ones(1, 8, dtype=torch.float64)
    assert torch.equal(net.line(x), 2 * F.linear(x, net.line.weight, net.line.bias))


def test_resting_modules_are_awake_only_within(net: _Net) -> None:
    expected = net(_input())
    resting = Resting([net], torch.device("cpu"))
    rested = net.line.weight.data_ptr()
    with resting.awake(), resting.awake():
        assert torch.equal(net(_input()), expected)
    assert net.line.weight.data_ptr() == rested


@pytest.mark.parametrize(
    "option", ["fold_adapter=true", "channels_last=true", "offload=true", "gradient_checkpointing=true"]
)
def test_a_lever_changes_no_step(
    option: str, registry: Any, tmp_path: Any, vader: Callable[..., int]
) -> None:
    import json

    common = ["bench", "--backbone", "tiny", "--reward", "brightness", "--device", "cpu"]
    common += ["--steps", "1", "--no-operations"]
    assert vader(*common, "--out", tmp_path / "off.json") == 0
    assert vader(*common, "--out", tmp_path / "on.json", "-o", f"trainer.{option}") == 0
    off, on = (json.loads((tmp_path / f"{name}.json").read_text())["losses"] for name in ("off", "on"))
    assert on == pytest.approx(off, rel=1e-4)


def test_offload_refuses_what_it_cannot_stage(vader: Callable[..., int], capsys: Any) -> None:
    command = ["bench", "--backbone", "tiny", "--reward", "brightness", "-o", "performance.offload=true"]
    assert vader(*command, "-o", "objective.reward_gradient.base_weight=0.5") == 2
    assert "objective.reward_gradient.base_weight" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("recomputing", [False, True])
def test_offloaded_activations_change_no_bit(recomputing: bool, device: str) -> None:
    from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
    from vader_core.performance.offload_activations import OffloadedActivations

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
    from torch.utils.checkpoint import checkpoint

    from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
    from vader_core.performance.swap_blocks import SwappedBlocks

    found = []
    for swapping in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            blocks = nn.ModuleList(_Branch() for _ in range(5))
            x = torch.randn(2, 8, 6, 6).to(device)
        for parameter in blocks.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        _adapted(blocks.to(device), 0.3)
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


@pytest.mark.parametrize("option", ["cuda_graphs=true", "swap_blocks=2", "offload_activations=true"])
def test_some_levers_need_cuda(vader: Callable[..., int], capsys: Any, option: str) -> None:
    command = ["bench", "--backbone", "tiny", "--reward", "brightness", "--device", "cpu"]
    assert vader(*command, "-o", f"trainer.{option}") == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_an_8_bit_optimizer_that_is_not_installed_is_said_at_once(
    vader: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vader_core.assembly import levers

    monkeypatch.setattr(levers, "find_spec", lambda name: None)
    command = ["train", "--backbone", "tiny", "--reward", "brightness", "--prompts", "fixed", "--dry-run"]
    assert vader(*command, "-o", "trainer.optimizer=adamw8bit") == 2
    said = capsys.readouterr().err
    assert "pip install bitsandbytes" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"gradient_checkpointing": False}, "performance.gradient_checkpointing=true"),
        ({"fold_adapter": True}, "performance.fold_adapter"),
        ({"cuda_graphs": True}, "performance.cuda_graphs"),
    ],
)
def test_swapping_refuses_what_needs_the_weights(registry: Any, other: dict[str, Any], said: str) -> None:
    from vader_core.assembly.levers import check_levers
    from vader_core.assembly.prepare import prepare
    from vader_core.errors import VaderError
    from vader_core.run.config import validated

    tree = {
        "backbone": {"name": "tiny"},
        "prompts": {"source": "fixed"},
        "trainer": {"swap_blocks": 1, "precision": "bf16", **other},
    }
    with pytest.raises(VaderError, match=said):
        check_levers(prepare(validated(tree), registry, device=torch.device("cuda")))
