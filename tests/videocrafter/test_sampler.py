"""`ddim_videocrafter` beyond the goldens."""

from __future__ import annotations

import pytest
import torch
from vader_videocrafter.sampler import VideoCrafterDDIM
from vader_videocrafter.schedule import clean_scale, videocrafter_schedule

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.sampler import State
from vader_core.schedule import RectifiedFlow, VariancePreserving

GEOMETRY = Geometry(16, 16, 2, 24)
NOTHING = Conditioning({})


def plan_of(num_steps: int, *, eta: float = 1.0, schedule=None):
    return VideoCrafterDDIM(eta).plan(schedule or videocrafter_schedule(), num_steps, GEOMETRY)


@pytest.mark.parametrize("num_steps", [1, 3, 7, 15, 18, 25, 27, 30, 50, 333, 600, 999])
def test_exactly_the_steps_asked_for(num_steps):
    plan = plan_of(num_steps)
    assert plan.num_steps == num_steps
    assert all(later < earlier for earlier, later in zip(plan.timesteps, plan.timesteps[1:], strict=False))
    assert plan.timesteps[-1] == 1.0
    assert plan.timesteps[0] <= 999.0
    assert {len(table) for table in plan.tables.values()} == {num_steps}
    assert all(torch.isfinite(torch.tensor(table)).all() for table in plan.tables.values())


@pytest.mark.parametrize("divisor", [2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 200, 500])
def test_divisors_of_a_thousand_give_the_official_timesteps(divisor):
    stride = 1000 // divisor
    assert plan_of(divisor).timesteps == tuple(float(t + 1) for t in range(1000 - stride, -1, -stride))


def test_step_counts_that_cannot_be_done_name_the_nearest():
    with pytest.raises(VaderError, match="nearest: 999"):
        plan_of(1000)
    with pytest.raises(VaderError, match="use 1 or more"):
        plan_of(0)


def test_another_kind_of_schedule_is_refused():
    with pytest.raises(VaderError, match="VariancePreserving"):
        plan_of(10, schedule=RectifiedFlow())


def test_the_scale_falls_and_stays():
    scale = clean_scale(1000)
    assert scale[0] == 1.0
    assert scale[399] == pytest.approx(0.7)
    assert torch.equal(scale[400:], torch.full((600,), 0.7, dtype=torch.float64))
    assert len(clean_scale(1400)) == 1400


def test_noise_is_asked_for_in_every_step_or_in_none():
    noisy, quiet = plan_of(25), plan_of(25, eta=0.0)
    sampler = VideoCrafterDDIM()
    assert all(sampler.needs_noise(noisy, i, NOTHING) for i in range(25))
    assert not any(sampler.needs_noise(quiet, i, NOTHING) for i in range(25))
    assert noisy.tables["sigma"][-1] == pytest.approx(0.0206, abs=1e-4)


def test_a_step_without_its_noise_is_refused():
    latents = torch.zeros(1, 4, 2, 2, 2)
    with pytest.raises(VaderError, match="needs noise"):
        VideoCrafterDDIM().step(plan_of(25), 0, State(latents), Prediction(latents), None)


@pytest.mark.parametrize("i", [0, 7, 24])
def test_renoised_latents_give_back_their_clean_estimate(i):
    plan, sampler = plan_of(25), VideoCrafterDDIM()
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    state = sampler.renoise(plan, i, clean, noise)
    torch.testing.assert_close(sampler.clean(plan, i, state, Prediction(noise)), clean)


@pytest.mark.parametrize("i", [0, 7, 24])
def test_a_v_prediction_of_the_same_path_gives_the_same_step(i):
    schedule = videocrafter_schedule()
    other = VariancePreserving(schedule.alphas_cumprod, "v", schedule.scale)
    sampler = VideoCrafterDDIM()
    epsilon_plan, v_plan = plan_of(25), plan_of(25, schedule=other)
    generator = torch.Generator().manual_seed(0)
    latents, epsilon, fresh = (
        torch.randn(1, 4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    signal, noise = epsilon_plan.tables["signal"][i], epsilon_plan.tables["noise"][i]
    scaled = (latents - noise * epsilon) / signal
    v = signal * epsilon - noise * scaled
    steps = [
        sampler.step(plan, i, State(latents), Prediction(value), fresh).latents
        for plan, value in ((epsilon_plan, epsilon), (v_plan, v))
    ]
    torch.testing.assert_close(*steps)
