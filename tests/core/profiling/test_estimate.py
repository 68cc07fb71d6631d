"""The memory estimate: booked on paper what the same step really holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import pytest
import torch
from booked import held
from PIL import Image
from torch import Tensor, nn

from vader_core.api.configure import complete
from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.errors import VaderError
from vader_core.nn.functional import Switch
from vader_core.profiling import estimate as estimates
from vader_core.profiling.estimate import (
    WORKSPACE,
    Estimate,
    count_operations,
    decide_checkpointing,
    estimate,
    memory_facts,
)
from vader_core.profiling.paper_optimizer import BLOCK, LEAST, PaperAdamW8bit
from vader_core.registry import Registry
from vader_core.run.config import RunConfig, validated
from vader_core.run.layers import changed, merged
from vader_core.testing.tiny import BrightnessReward, MotionReward, TinyBackbone

BASE: dict[str, Any] = {
    "backbone": {"name": "tiny", "width": 64, "depth": 2},
    "video": {"height": 64, "width": 64, "num_frames": 8},
    "sampler": {"num_steps": 6, "guidance_scale": 3.0},
    "reward": [{"name": "brightness"}],
    "objective": {"reward_gradient": {"reward_frames": "all"}},
    "prompts": {"source": "fixed"},
    "trainer": {"precision": "fp32"},
    "performance": {"gradient_checkpointing": True},
    "validation": {"prompts": 0},
}


def _config(objective: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    """The base run with some values replaced; ``objective`` holds options of the reward gradient."""
    own = {} if objective is None else {"objective": {"reward_gradient": objective}}
    return validated(merged(BASE, own, sections))


def _found(registry: Registry, **changes: Any) -> Estimate:
    return estimate(_config(**changes), registry)


def _performance(registry: Registry, **options: Any) -> Estimate:
    return _found(registry, performance=options)


def test_the_process_is_left_as_it_was(registry: Registry) -> None:
    state, config = torch.get_rng_state(), _config()
    before = config.model_dump()
    estimate(config, registry)
    assert torch.equal(torch.get_rng_state(), state)
    assert config.model_dump() == before


@pytest.mark.quick_cases("False-1")
@pytest.mark.parametrize(("recomputing", "accumulate"), [(False, 1), (True, 2)])
def test_the_estimate_is_what_a_real_step_holds(
    registry: Registry, recomputing: bool, accumulate: int
) -> None:
    config = _config(
        performance={"gradient_checkpointing": recomputing},
        trainer={"accumulate": accumulate},
        sampler={"num_steps": 2},
    )
    found = estimate(config, registry)
    assert found.peak - WORKSPACE / GIB == pytest.approx(held(registry, config), rel=0.05)


@pytest.mark.quick_cases("store")
@pytest.mark.parametrize(
    "objective",
    [
        {"nft": {"weight": 1.0, "group": 2}},
        {"nft": {"weight": 1.0, "group": 2, "loss": "awm"}},
        {
            "nft": {
                "weight": 1.0,
                "group": 3,
                "loss": "awm",
                "old_weight": 0.1,
                "base_weight": 0.1,
                "timesteps": 6,
            }
        },
        {"reward_gradient": {"store": "rollouts", "gradient": "steps:1", "reward_frames": "all"}},
    ],
    ids=["nft", "awm", "awm that stays near", "store"],
)
def test_every_objective_is_estimated(registry: Registry, objective: dict[str, Any]) -> None:
    short = {**BASE["sampler"], "num_steps": 2}
    config = validated({**BASE, "objective": objective, "sampler": short})
    found = estimate(config, registry)
    real = held(registry, config)
    assert found.peak - WORKSPACE / GIB == pytest.approx(real, rel=0.05)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short clips with captions."""
    folder = tmp_path_factory.mktemp("footage")
    for number in range(3):
        frames = torch.full((8, 64, 64, 3), 60 * (1 + number), dtype=torch.uint8).numpy()
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        (folder / f"{number}.txt").write_text(f"clip {number}")
    return folder


@pytest.mark.quick_cases("lora")
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_fine_tuning_is_estimated(registry: Registry, footage: Path, kind: str) -> None:
    own = {"objective": {"supervised": {"weight": 1.0}}, "reward": [], "tuning": {"kind": kind}}
    data = {"data": {"source": f"videos:{footage}", "held_out": 0}}
    config = validated({**BASE, **own, **data, "prompts": {}})
    found = estimate(config, registry)
    assert found.peak - WORKSPACE / GIB == pytest.approx(held(registry, config), rel=0.05)


class _Kept(torch.optim.Optimizer):
    """As a library's Lion: one state of a number's own width."""

    def __init__(self, groups: Any, lr: float, betas: Any, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in (one for group in self.param_groups for one in group["params"]):
            if parameter.grad is not None and not self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)


@pytest.mark.slow
def test_the_states_are_those_of_the_optimizer_that_is_asked_for(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ModuleType("pytorch_optimizer")
    library.__spec__ = ModuleSpec("pytorch_optimizer", None)
    library.Lion = _Kept  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", library)

    def states(optimizer: str) -> float:
        changes = {"backbone": {"width": 256}, "tuning": {"kind": "full"}}
        found = _found(registry, **changes, trainer={"optimizer": optimizer})
        return found.parts["adapter and optimizer"] * GIB

    none = {name: states(name) for name in ("adamw", "lion", "adamw8bit")}
    numbers = (none["adamw"] - none["lion"]) / 4  # of two states, one is left
    assert numbers == pytest.approx(none["adamw"] / 16, rel=0.02)  # with the weights and their gradient
    # Most of the numbers lie in tensors large enough: two bytes and two shares of a block's scale for each.
    saved = none["adamw"] - none["adamw8bit"]
    assert 0.9 * numbers * (8 - 2 - 8 / 256) < saved <= numbers * (8 - 2 - 8 / 256)


def test_eight_bits_are_kept_as_bitsandbytes_keeps_them() -> None:
    small, large = (nn.Parameter(torch.ones(size)) for size in (LEAST - 1, LEAST + 1))
    optimizer = PaperAdamW8bit([small, large])
    small.grad, large.grad = torch.ones_like(small), torch.ones_like(large)
    optimizer.step()
    assert {name: (one.dtype, one.numel()) for name, one in optimizer.state[small].items()} == {
        "state1": (torch.float32, LEAST - 1),
        "state2": (torch.float32, LEAST - 1),
    }
    assert {name: (one.dtype, one.numel()) for name, one in optimizer.state[large].items()} == {
        "state1": (torch.uint8, LEAST + 1),
        "state2": (torch.uint8, LEAST + 1),
        "absmax1": (torch.float32, LEAST // BLOCK + 1),
        "absmax2": (torch.float32, LEAST // BLOCK + 1),
    }


@pytest.mark.slow
def test_a_black_box_counts_as_its_input(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    score = BrightnessReward.score_frames

    def from_values(self: Any, frames: Tensor, prompts: Any) -> Tensor:
        assert frames.cpu().numpy() is not None
        return score(self, frames, prompts)

    short = {**BASE["sampler"], "num_steps": 2}
    config = validated({**BASE, "objective": {"nft": {"weight": 1.0, "group": 2}}, "sampler": short})
    traced = estimate(config, registry)
    monkeypatch.setattr(BrightnessReward, "score_frames", from_values)
    monkeypatch.setattr(BrightnessReward, "differentiable", False)
    boxed = estimate(config, registry)
    assert boxed.peak == pytest.approx(traced.peak, rel=0.05)


def test_the_estimate_follows_the_levers(registry: Registry) -> None:
    plain = _found(registry)
    everything_held = _performance(registry, gradient_checkpointing=False)
    folded = _performance(registry, fold_adapter=True)
    offloaded = _performance(registry, offload=True)
    swapped = _performance(registry, swap_blocks=2)
    moved = _performance(registry, offload_activations=True)
    assert swapped.parts["denoiser"] < 0.7 * plain.parts["denoiser"]
    assert moved.saved < 0.5 * plain.saved
    assert everything_held.saved > 1.5 * plain.saved
    assert everything_held.peak > plain.peak
    assert folded.parts["folded copy"] > 0
    assert "folded copy" not in plain.parts
    assert "autoencoder" in plain.parts
    assert "autoencoder" not in offloaded.parts


@pytest.mark.slow
def test_a_captured_step_holds_what_it_saves_all_the_time(registry: Registry) -> None:
    lean = {"gradient_checkpointing": False}
    plain, graphed = _performance(registry, **lean), _performance(registry, cuda_graphs="all", **lean)
    assert plain.saved > 0
    for name, peak in plain.phases.items():
        more = plain.saved if name in ("text", "no-grad steps", "optimizer") else 0.0
        assert graphed.phases[name] == pytest.approx(peak + more)
    watched = {"performance": lean, "validation": {"prompts": 2}}
    held = _found(registry, **merged(watched, {"performance": {"cuda_graphs": "all"}})).validation
    looked_at = _found(registry, **watched).validation
    assert held is not None
    assert looked_at is not None
    assert held == pytest.approx(looked_at + plain.saved)


@pytest.mark.soak
def test_the_estimate_follows_the_segments(registry: Registry, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    pictured = {"backbone": {"name": "tiny_image"}, "prompts": {"source": f"images:{tmp_path}"}}
    segments = {"segments": 3, "gradient_segments": [0, 1, 2]}
    one = _found(registry, **pictured)
    segmented = _found(registry, **pictured, objective=segments)
    assert segmented.peak > one.peak
    for carried in (False, True):  # several ends go back at once
        staged = _found(
            registry,
            **pictured,
            objective=segments | {"carry_gradient": carried},
            performance={"offload": True},
        )
        assert staged.phases["backward"] > one.parts["denoiser"]


@pytest.mark.quick_cases("True")
@pytest.mark.parametrize("used", [True, False])
def test_the_estimate_is_of_the_kernels_that_the_run_uses(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    seen = set()
    predict = TinyBackbone.predict

    def noted(self: Any, *given: Any) -> Any:
        seen.add(Switch.on)
        return predict(self, *given)

    monkeypatch.setattr(TinyBackbone, "predict", noted)
    _performance(registry, fused_kernels=used)
    assert seen == {used}
    assert Switch.on
    count_operations(_config(performance={"fused_kernels": used}), registry)
    assert seen == {used, False}  # the counter knows torch's own operations alone


@pytest.mark.soak
def test_operations_are_those_of_the_whole_optimizer_step(registry: Registry) -> None:
    few: dict[str, Any] = {"sampler": {"num_steps": 3}}
    one = count_operations(_config(**few), registry)
    assert one > 0
    assert count_operations(_config(trainer={"accumulate": 3}, **few), registry) == 3 * one
    assert count_operations(_config(trainer={"batch_size": 3}, **few), registry) == 3 * one
    inner = count_operations(_config(objective={"inner_updates": 2}, **few), registry)
    assert one < inner < 2 * one


def test_with_offload_no_two_networks_are_loaded_together(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(self: Any) -> None:
        self.net = nn.Linear(4096, 4096, device="cuda").requires_grad_(False)

    for kind in (BrightnessReward, MotionReward):
        monkeypatch.setattr(kind, "__init__", hold)
    size = 4096 * 4097 * 4 / GIB
    rewards = [{"name": "brightness"}, {"name": "motion"}]
    plain = _found(registry, reward=rewards)
    offloaded = _found(registry, reward=rewards, performance={"offload": True})
    assert plain.loading - offloaded.loading > 0.9 * size
    assert plain.parts["rewards"] == pytest.approx(2 * size, rel=0.01)
    assert "rewards" not in offloaded.parts


@pytest.mark.soak
def test_further_steps_are_extrapolated_exactly(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(objective={"gradient": "last:5"})
    quick = estimate(config, registry)
    monkeypatch.setattr(estimates, "TRACED", 5)
    whole = estimate(config, registry)
    assert quick.peak == pytest.approx(whole.peak, rel=0.01)
    assert quick.peak > _found(registry).peak


def test_a_sampler_of_a_fixed_number_of_steps_has_an_estimate(registry: Registry) -> None:
    flow = {"backbone": {"schedule": "flow"}, "sampler": {"name": "flow_euler"}}
    fixed = {"sampler": {"sigmas": [1.0, 0.9, 0.7, 0.5, 0.3, 0.1]}}
    assert _found(registry, **merged(flow, fixed)).peak == _found(registry, **flow).peak


def test_a_shortened_rollout_is_told_the_times_of_the_whole_one(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    predict = TinyBackbone.predict

    def noted(self: Any, latents: Tensor, timestep: Tensor, conditioning: Any) -> Any:
        told.append(self._time)
        return predict(self, latents, timestep, conditioning)

    def at_timestep(self: Any, timestep: float) -> Any:
        self._time = timestep
        return nullcontext()

    monkeypatch.setattr(TinyBackbone, "predict", noted)
    monkeypatch.setattr(TinyBackbone, "at_timestep", at_timestep)
    config = _config(objective={"gradient": "last:4"}, sampler={"num_steps": 20})
    estimate(config, registry)
    cpu = torch.device("cpu")
    whole = prepare(complete(config, registry, device=cpu), registry, device=cpu).model
    times = whole.plan(whole.geometry).timesteps
    assert told == [times[0], times[16], times[19], times[0], times[19]]


@pytest.mark.quick_cases("refl", "last")
@pytest.mark.parametrize("gradient", ["random", "refl", "steps:2", "from:4", "last"])
def test_every_gradient_choice_has_an_estimate(registry: Registry, gradient: str) -> None:
    found = _found(registry, objective={"gradient": gradient})
    assert found.phases["backward"] > WORKSPACE / GIB
    assert found.saved > 0


def test_a_validation_is_looked_at(registry: Registry) -> None:
    one = _found(registry, validation={"prompts": 4, "batch": 1}).validation
    four = _found(registry, validation={"prompts": 4, "batch": 4}).validation
    assert one is not None
    assert four is not None
    assert four > one
    assert _found(registry).validation is None


def test_a_component_that_needs_values_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
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
    much = _config(performance={"gradient_checkpointing": False}, trainer={"batch_size": 2})
    said = memory_facts(much, registry)["memory"]
    for option in ("performance.gradient_checkpointing=true", "performance.offload=true", "--batch-size 1"):
        assert option in said
    assert "offload" not in memory_facts(_config(performance={"offload": True}), registry)["memory"]
    for enough in (1000.0, None):
        monkeypatch.setattr(estimates, "free_gib", lambda enough=enough: enough)
        assert "memory" not in memory_facts(_config(), registry)


def test_checkpointing_is_chosen_by_memory(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _performance(registry, gradient_checkpointing=False).peak
    undecided = _config(performance={"gradient_checkpointing": "auto"})
    cuda, cpu = torch.device("cuda"), torch.device("cpu")  # nothing is loaded
    for free, chosen in ((1.5 * held, False), (1.1 * held, True), (0.5 * held, True), (None, True)):
        monkeypatch.setattr(estimates, "free_gib", lambda free=free: free)
        config = complete(undecided, registry, device=cuda)
        assert config.performance.gradient_checkpointing is chosen
        assert prepare(config, registry, device=cuda).model.checkpointing is chosen
    settled = complete(undecided, registry, device=cpu)
    assert settled.performance.gradient_checkpointing is False
    assert undecided.performance.gradient_checkpointing == "auto"
    with pytest.raises(VaderError, match="not complete"):
        prepare(undecided, registry, device=cpu)


def test_auto_checkpointing_says_where_it_cannot_be_decided(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, *given: Any) -> Any:
        raise ValueError("its shapes depend on values")

    monkeypatch.setattr(TinyBackbone, "predict", fails)
    monkeypatch.setattr(estimates, "free_gib", lambda: 10.0)
    config = _config(performance={"gradient_checkpointing": "auto"})
    with pytest.raises(VaderError, match="its shapes depend on values: use true or false"):
        decide_checkpointing(config, registry, torch.device("cuda"))
    decided = changed(config, performance={"gradient_checkpointing": True})
    assert decide_checkpointing(decided, registry, torch.device("cuda")) == decided


def test_the_dry_run_prints_it(vader: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", "--backbone", "tiny", "--reward", "brightness", "--prompts", "fixed", "--dry-run")
    assert vader(*arguments, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["estimated_peak_gib"] >= WORKSPACE / GIB
    assert facts["estimated_parts_gib"]["denoiser"] > 0
    assert vader(*arguments) == 0
    assert "GiB (cuda, fp32), by phase: " in capsys.readouterr().out
    assert vader(*arguments, "--json", "--device", "cpu") == 0
    assert "estimated_peak_gib" not in json.loads(capsys.readouterr().out)


WAN = ("train", "--backbone", "wan", "--weights", "random", "-o", "backbone.architecture=tiny", "--reward")
WAN += (
    "brightness",
    "--prompts",
    "fixed",
    "--height",
    "32",
    "--width",
    "32",
    "--num-frames",
    "5",
    "--dry-run",
)


@pytest.mark.slow
def test_the_estimate_is_of_the_precision_that_a_device_would_have(
    vader: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def facts(*more: str) -> dict[str, Any]:
        assert vader(*WAN, "--dry-run", "--json", *more) == 0
        return dict(json.loads(capsys.readouterr().out))

    unset, wide = facts(), facts("--precision", "fp32")
    assert (unset["estimated_for"], wide["estimated_for"]) == ("cuda, bf16", "cuda, fp32")
    assert (unset["device"], unset["precision"]) == ("cpu", "fp32")  # what would run here
    held = facts("-o", "performance.gradient_checkpointing=false")  # which is on by default there
    saved = "saved for the backward pass"
    assert held["estimated_parts_gib"][saved] > 1.5 * unset["estimated_parts_gib"][saved]
