"""The example objective: random steps keep the marginals, the update is the written one, it learns."""

from __future__ import annotations

import json

import pytest
import torch
from booked import held
from reference_loop import batch_of, forget, gradients, make
from vader_policy_gradient.objective import PolicyGradient

from vader_core.builtin.samplers.options import RectifiedFlowOptions
from vader_core.builtin.samplers.rectified_flow import RectifiedFlowEuler
from vader_core.device import GIB
from vader_core.prediction import Prediction
from vader_core.profiling.estimate import WORKSPACE, estimate
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.sampler import State
from vader_core.schedule import RectifiedFlow
from vader_core.testing.plugin import add_testing_plugin


@pytest.fixture(scope="module")
def registry():
    return add_testing_plugin(load_registry())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("noise_level", [0.3, 0.7])
def test_random_steps_keep_the_marginals(sign, noise_level):
    """Data x ~ N(0.5, 0.3²), for which the velocity is known in closed form."""
    mean, deviation, steps = 0.5, 0.3, 200
    sampler = RectifiedFlowEuler(RectifiedFlowOptions(noise_level=noise_level))
    plan = sampler.plan(RectifiedFlow(shift=2.0, velocity_sign=sign), steps, None)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(20_000, 1, 1, 1, 1, generator=generator, dtype=torch.float64)
    for i in range(steps):
        tau = plan.tables["tau"][i]
        spread = ((1 - tau) * deviation) ** 2 + tau**2
        if tau < 0.9:  # nearer to pure noise sigma is so large that even 200 steps are coarse
            assert float(latents.std()) == pytest.approx(spread**0.5, rel=0.03)
        score = (latents - (1 - tau) * mean) / spread
        velocity = tau * score - (mean + (1 - tau) * deviation**2 * score)
        fresh = torch.randn(latents.shape, generator=generator, dtype=latents.dtype)
        noise = fresh if sampler.needs_noise(plan, i, None) else None
        latents = sampler.step(plan, i, State(latents), Prediction(sign * velocity), noise).latents
    assert noise is None
    assert float(latents.mean()) == pytest.approx(mean, rel=0.02)
    assert float(latents.std()) == pytest.approx(deviation, rel=0.02)


def test_the_update_is_the_one_written_by_hand(registry):
    """Sum over the random steps of advantage times the gradient of the log-probability, in float64."""
    parts = make(registry, "tiny", {"schedule": "flow"})
    parts = parts.with_model(sampler=RectifiedFlowEuler(RectifiedFlowOptions(noise_level=0.7)))
    objective = PolicyGradient(PolicyGradient.Options(group=2))
    objective.use(parts.rewards)
    (prepared,) = objective.prepare(parts.model, [batch_of(parts)], None)
    forget(parts)
    objective.step(parts.model, prepared, torch.Tensor.backward, 0)
    found = gradients(parts)
    assert prepared.advantages.view(2, 2).sum(dim=1).abs().max() < 1e-6  # normalised within the group
    forget(parts)
    plan, total = parts.model.plan(parts.geometry), 0.0
    taus = plan.tables["tau"]
    for seen in prepared.steps[:-1]:
        i, x = seen.index, seen.latents
        tau, dt = taus[i], taus[i + 1] - taus[i]
        bounded = min(tau, taus[1])
        sigma = 0.7 * (bounded / (1 - bounded)) ** 0.5
        v = parts.model.predict(x, seen.timestep, prepared.rollout.conditioning).value
        mean = x + (v + sigma**2 / (2 * tau) * (x + (1 - tau) * v)) * dt
        log_probability = -((seen.after - mean) ** 2 / (2 * sigma**2 * -dt)).flatten(1).mean(dim=1)
        total = total - (prepared.advantages * log_probability).mean() / (len(prepared.steps) - 1)
    total.backward()
    expected = gradients(parts)
    scale = max(float(value.abs().max()) for value in expected.values())
    assert scale > 0
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= 1e-9 * max(1.0, scale), name


@pytest.mark.slow
def test_its_memory_is_estimated(registry):
    """On paper as on the device: its rollout keeps every step, one of which has a graph at a time."""
    config = validated(
        {
            "backbone": {"name": "tiny", "width": 64, "depth": 2, "schedule": "flow"},
            "video": {"height": 64, "width": 64, "num_frames": 8},
            "sampler": {"name": "rectified_flow", "noise_level": 0.7, "num_steps": 4, "guidance_scale": 3.0},
            "reward": [{"name": "brightness"}],
            "objective": {"policy_gradient": {"weight": 1.0, "group": 3}},
            "prompts": {"source": "fixed"},
            "trainer": {"precision": "fp32"},
            "performance": {"gradient_checkpointing": True},
            "validation": {"prompts": 0},
        }
    )
    found = estimate(config, registry).peak - WORKSPACE / GIB
    assert found == pytest.approx(held(registry, config), rel=0.05)


def test_a_sampler_without_random_steps_is_refused(registry, capsys):
    from vader_core.cli.train import train_command
    from vader_core.errors import VaderError

    flags = {"backbone": "tiny", "rewards": ("brightness",), "prompts": "fixed", "device": "cpu"}
    with pytest.raises(VaderError, match="no stochastic steps"):
        train_command({**flags, "objectives": ("policy_gradient",), "dry_run": True}, registry)


def test_it_raises_a_reward_that_it_only_queries(registry, tmp_path):
    from vader_core.api.configure import configure
    from vader_core.api.train import train

    config = configure(
        backbone="tiny",
        reward=["brightness"],
        prompts="fixed",
        lora={"rank": 2},
        objective={"policy_gradient": {"weight": 1.0}},
        sampler={"noise_level": 0.7},
        trainer={"device": "cpu", "lr": 1e-2, "batch_size": 2, "max_steps": 20},
        validation={"prompts": 0},
    )
    train(config, out=tmp_path / "run", registry=registry)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    means = [
        record["rewards"]["brightness"] for record in map(json.loads, lines) if record["kind"] == "train"
    ]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["reward_queries"] == 20 * 16
    assert sum(means[-4:]) / 4 > sum(means[:4]) / 4 + 0.02
