"""The memory estimate: booked on paper what the same step really holds."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.profiling import estimate as estimates
from vader_core.profiling.bench import Bench, load
from vader_core.profiling.estimate import WORKSPACE, estimate, memory_facts
from vader_core.profiling.graph_walk import UsedOnce, walk_backward
from vader_core.profiling.paper_device import GRAIN, Ledger, on_paper
from vader_core.profiling.stopwatch import Stopwatch
from vader_core.registry import Registry
from vader_core.run.config import RunConfig, validated
from vader_core.weights import with_random_weights


class _Booked(TorchDispatchMode):
    """Books the storages of real tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.held:
                storage = leaf.untyped_storage()
                self.held.add(storage._cdata)
                size = -(-storage.nbytes() // GRAIN) * GRAIN
                self.ledger.book(size)
                weakref.finalize(storage, self._erase, storage._cdata, size)
        return out

    def _erase(self, key: int, size: int) -> None:
        self.held.discard(key)
        self.ledger.book(-size)


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
        with _Booked() as booked:
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


def test_what_lies_on_the_paper_device_is_booked_once_and_struck_when_it_goes() -> None:
    with on_paper() as device:
        here = torch.arange(3.0)
        assert here.sum().item() == 3.0  # the CPU is real
        one = torch.empty(1000, device="cuda")
        assert device.ledger.live == 4096  # 4,000 bytes in multiples of 512
        view = one.view(10, 100).t()
        assert device.ledger.live == 4096
        other = here.to("cuda")
        assert other.device.type == "cuda"
        assert device.ledger.live == 4096 + 512
        away = one.cpu()
        assert away.device.type == "cpu"
        del one, view
        assert device.ledger.live == 512
        assert device.ledger.peak == 4096 + 512
        assert float(other.sum()) == 1.0


def test_attention_on_paper_holds_no_scores() -> None:
    with on_paper() as device:
        for dtype, mask in ((torch.bfloat16, False), (torch.float32, False), (torch.bfloat16, True)):
            q = torch.randn(1, 2, 2048, 64, device="cuda", dtype=dtype, requires_grad=True)
            given = torch.zeros(1, 1, 1, 2048, device="cuda") if mask else None
            device.ledger.reset()
            before = device.ledger.live
            F.scaled_dot_product_attention(q, q, q, attn_mask=given).float().sum().backward()
            assert q.grad is not None
            assert q.grad.shape == q.shape
            assert device.ledger.peak - before < 2 * 2048**2 * dtype.itemsize / 2


def test_the_process_is_left_as_it_was(registry: Registry) -> None:
    before = (torch.Generator, torch.Tensor.backward, F.scaled_dot_product_attention, nn.Module._apply)
    state = torch.get_rng_state()
    with on_paper():
        assert torch.Generator is not before[0]
        nn.Linear(4, 4).to("cuda")(torch.randn(2, 4, device="cuda")).sum().backward()
    now = (torch.Generator, torch.Tensor.backward, F.scaled_dot_product_attention, nn.Module._apply)
    assert now == before
    torch.set_rng_state(state)
    estimate(_config(), registry)
    assert torch.equal(torch.get_rng_state(), state)


def _config(**changes: Any) -> RunConfig:
    trainer = {"precision": "fp32", "gradient_checkpointing": True, "validation_prompts": 0}
    tree: dict[str, Any] = {
        "backbone": {"name": "tiny", "options": {"width": 64, "depth": 4}},
        "video": {"height": 64, "width": 64, "num_frames": 8},
        "sampling": {"num_steps": 6, "guidance_scale": 3.0},
        "rewards": [{"name": "brightness"}],
        "reward_frames": "all",
        "prompts": {"source": "fixed"},
        "trainer": trainer,
    }
    for key, value in changes.items():
        if key in tree or key == "gradient":
            tree[key] = value
        else:
            trainer[key] = value
    return validated(tree)


@pytest.mark.parametrize("recomputing", [False, True])
def test_the_estimate_is_what_a_real_step_holds(registry: Registry, recomputing: bool) -> None:
    config = _config(gradient_checkpointing=recomputing)
    found = estimate(config, registry)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # as CUDA takes three axes; the CPU's choice varies
        return torch.ops.aten._scaled_dot_product_attention_math(q, k, v)[0]

    with _Booked() as booked, patch("torch.nn.functional.scaled_dot_product_attention", plain):
        assembly = load(prepare(config.model_copy(deep=True), registry, device=torch.device("cpu")))
        bench = Bench(assembly)
        stopwatch = Stopwatch(assembly.device)
        for number in range(2):  # the first makes the optimizer's states
            booked.ledger.reset()
            bench.step(number, assembly.rewards, stopwatch)
    real = booked.ledger.peak / GIB
    assert found.peak - WORKSPACE / GIB == pytest.approx(real, rel=0.05)


def test_the_estimate_follows_the_levers(registry: Registry, tmp_path: Path) -> None:
    plain = estimate(_config(), registry)
    everything_held = estimate(_config(gradient_checkpointing=False), registry)
    folded = estimate(_config(fold_adapter=True), registry)
    offloaded = estimate(_config(offload=True), registry)
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    pictured = {"backbone": {"name": "tiny_image"}, "prompts": {"source": f"images:{tmp_path}"}}
    segmented = estimate(_config(**pictured, segments=3, gradient_segments=[0, 1, 2]), registry)
    swapped = estimate(_config(swap_blocks=4), registry)
    moved = estimate(_config(offload_activations=True), registry)
    assert swapped.parts["denoiser"] < 0.7 * plain.parts["denoiser"]
    assert moved.saved < 0.5 * plain.saved
    assert everything_held.saved > 1.5 * plain.saved
    assert everything_held.peak > plain.peak
    assert folded.parts["folded copy"] > 0
    assert "folded copy" not in plain.parts
    assert "autoencoder" in plain.parts
    assert "autoencoder" not in offloaded.parts
    assert segmented.peak > estimate(_config(**pictured), registry).peak


def test_with_offload_no_two_networks_are_loaded_together(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vader_core.testing.tiny import BrightnessReward, MotionReward

    def hold(self: Any) -> None:
        self.net = nn.Linear(4096, 4096, device="cuda").requires_grad_(False)

    for kind in (BrightnessReward, MotionReward):
        monkeypatch.setattr(kind, "__init__", hold)
    size = 4096 * 4097 * 4 / GIB
    rewards = [{"name": "brightness"}, {"name": "motion"}]
    plain = estimate(_config(rewards=rewards), registry)
    offloaded = estimate(_config(rewards=rewards, offload=True), registry)
    assert plain.loading - offloaded.loading > 0.9 * size
    assert plain.parts["rewards"] == pytest.approx(2 * size, rel=0.01)
    assert "rewards" not in offloaded.parts


def test_further_steps_are_extrapolated_exactly(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(gradient="last:5")
    quick = estimate(config, registry)
    monkeypatch.setattr(estimates, "TRACED", 5)
    whole = estimate(config, registry)
    assert quick.peak == pytest.approx(whole.peak, rel=0.01)
    assert quick.peak > estimate(_config(), registry).peak


@pytest.mark.parametrize("gradient", ["random", "refl", "steps:2", "from:4", "last"])
def test_every_gradient_choice_has_an_estimate(registry: Registry, gradient: str) -> None:
    found = estimate(_config(gradient=gradient), registry)
    assert found.phases["backward"] > WORKSPACE / GIB
    assert found.saved > 0


def test_a_validation_is_looked_at(registry: Registry) -> None:
    one = estimate(_config(validation_prompts=4, validation_batch=1), registry).validation
    four = estimate(_config(validation_prompts=4, validation_batch=4), registry).validation
    assert one is not None
    assert four is not None
    assert four > one
    assert estimate(_config(), registry).validation is None


def test_a_component_that_needs_values_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from vader_core.testing.tiny import BrightnessReward

    score = BrightnessReward.score_frames
    monkeypatch.setattr(
        BrightnessReward,
        "score_frames",
        lambda self, frames, prompts: score(self, frames[frames > 0], prompts),
    )
    facts = memory_facts(_config(), registry)
    assert facts["estimated_peak_gib"] is None
    assert facts["estimate"].startswith("not possible: ")


def test_too_little_memory_is_said_with_what_helps(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "free_gib", lambda: 0.01)
    said = memory_facts(_config(gradient_checkpointing=False, batch_size=2), registry)["memory"]
    for option in ("performance.gradient_checkpointing=true", "performance.offload=true", "--batch-size 1"):
        assert option in said
    assert "offload" not in memory_facts(_config(offload=True), registry)["memory"]
    for enough in (1000.0, None):
        monkeypatch.setattr(estimates, "free_gib", lambda enough=enough: enough)
        assert "memory" not in memory_facts(_config(), registry)


def test_checkpointing_is_chosen_by_memory(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from vader_core import memory

    held = estimate(_config(gradient_checkpointing=False), registry).peak
    cuda = torch.device("cuda")  # nothing is loaded
    for free, chosen in ((1.5 * held, False), (1.1 * held, True), (0.5 * held, True)):
        monkeypatch.setattr(memory, "free_gib", lambda free=free: free)
        config = _config(gradient_checkpointing="auto")
        assembly = prepare(config, registry, device=cuda)
        assert assembly.config.trainer.gradient_checkpointing is chosen
        assert assembly.settings.checkpointing is chosen
    settled = prepare(_config(gradient_checkpointing="auto"), registry, device=torch.device("cpu"))
    assert settled.config.trainer.gradient_checkpointing is False


def test_the_dry_run_prints_it(vader: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", "--backbone", "tiny", "--reward", "brightness", "--prompts", "fixed", "--dry-run")
    assert vader(*arguments, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["estimated_peak_gib"] >= WORKSPACE / GIB
    assert facts["estimated_parts_gib"]["denoiser"] > 0
    assert vader(*arguments) == 0
    assert "estimated peak gib" in capsys.readouterr().out
    assert vader(*arguments, "--json", "--device", "cpu") == 0
    assert "estimated_peak_gib" not in json.loads(capsys.readouterr().out)


def test_random_weights_keep_the_rest_of_the_options(tmp_path: Path) -> None:
    from pydantic import BaseModel

    class Inner(BaseModel):
        weights: str = "pretrained"
        head_weights: str | None = None

    class Options(BaseModel):
        weights: str = "pretrained"
        architecture: str | None = None
        inner: Inner = Inner()

    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    found = with_random_weights(Options, {"weights": str(tmp_path), "inner": {"head_weights": "x"}})
    assert found == {
        "weights": "random",
        "architecture": str(tmp_path),
        "inner": {"weights": "random", "head_weights": "random"},
    }


@pytest.mark.parametrize("innermost", [False, True])
def test_a_convolution_on_paper_lies_as_on_the_device(innermost):
    layout = torch.channels_last if innermost else torch.contiguous_format
    with on_paper():
        x = torch.empty(2, 8, 6, 6, device="cuda").to(memory_format=layout)
        weight = torch.empty(16, 8, 3, 3, device="cuda")
        out = F.conv2d(x, weight, padding=1)
        flags = (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, False, False)
        gradient = torch.ops.aten.convolution_backward(out, x, weight, None, *flags)[0]
        assert out.is_contiguous(memory_format=layout)
        assert gradient.is_contiguous(memory_format=layout)
