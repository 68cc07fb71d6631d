"""The baseline is a fair one: its stochastic sampler keeps the flow's marginals, and it does learn."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vader_core.assembly.prepare import prepare
from vader_core.builtin.samplers.rectified_flow import RectifiedFlowEuler
from vader_core.lora.adapter import adapter_parameters
from vader_core.method.denoise import Sampling
from vader_core.method.guidance import Guidance
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.schedule import RectifiedFlow
from vader_core.testing.plugin import add_testing_plugin

PLACE = Path(__file__).parents[2] / "benchmarks" / "policy_gradient.py"


@pytest.fixture(scope="module")
def baseline():
    spec = importlib.util.spec_from_file_location("policy_gradient", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["policy_gradient"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["policy_gradient"]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("noise_level", [0.3, 0.7])
def test_the_stochastic_sampler_keeps_the_marginals(baseline, sign, noise_level):
    """Data x ~ N(0.5, 0.3²), for which the velocity is known in closed form."""
    mean, deviation, steps = 0.5, 0.3, 200
    sampler = RectifiedFlowEuler()
    plan = sampler.plan(RectifiedFlow(shift=2.0, velocity_sign=sign), steps, None)
    sampling = Sampling(sampler, plan, Guidance())
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(20_000, 1, 1, 1, 1, generator=generator, dtype=torch.float64)
    for i in range(steps):
        tau = plan.tables["tau"][i]
        spread = ((1 - tau) * deviation) ** 2 + tau**2
        if tau < 0.9:  # nearer to pure noise sigma is so large that even 200 steps are coarse
            assert float(latents.std()) == pytest.approx(spread**0.5, rel=0.03)
        score = (latents - (1 - tau) * mean) / spread
        velocity = tau * score - (mean + (1 - tau) * deviation**2 * score)
        latents, noise = baseline.transition_mean(sampling, i, latents, sign * velocity, noise_level)
        latents = latents + noise * torch.randn(latents.shape, generator=generator, dtype=latents.dtype)
    assert noise == 0.0
    assert float(latents.mean()) == pytest.approx(mean, rel=0.02)
    assert float(latents.std()) == pytest.approx(deviation, rel=0.02)


def test_advantages_are_normalised_within_a_group(baseline):
    found = baseline.advantages(torch.tensor([1.0, 3.0, 10.0, 30.0]), 2)
    assert found.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5] * 2, rel=1e-3)


def test_it_raises_a_reward_that_it_only_queries(baseline):
    config = {
        "backbone": {"name": "tiny"},
        "rewards": [{"name": "brightness"}],
        "prompts": {"source": "fixed"},
        "lora": {"rank": 2},
        "trainer": {"device": "cpu"},
    }
    assembly = prepare(validated(config), add_testing_plugin(load_registry()))
    assembly.load_backbone()
    assembly.attach()
    assembly.load_rewards()
    parameters = list(adapter_parameters(assembly.backbone.denoiser).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    settings = baseline.PolicySettings(groups=2, group_size=8)
    means = []
    for step in range(20):
        optimizer.zero_grad()
        prompts = [prompt for prompt in assembly.draw_prompts([2 * step, 2 * step + 1]) for _ in range(8)]
        scores = baseline.policy_gradient_step(
            assembly.backbone,
            assembly.rewards,
            prompts,
            assembly.settings.sampling,
            assembly.geometry,
            settings,
            Randomness(0, step, 0, tuple(range(16 * step, 16 * step + 16))),
        )
        optimizer.step()
        means.append(float(scores.mean()))
    assert sum(means[-4:]) / 4 > sum(means[:4]) / 4 + 0.02
