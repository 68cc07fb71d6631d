"""The samplers that EasyAnimate's users pick, against diffusers' and against their contract."""

from __future__ import annotations

import pytest
import torch
from vader_easyanimate.ddim import ClippedDDIM
from vader_easyanimate.euler_ancestral import EulerAncestral
from vader_easyanimate.pndm import EXTRA_CALLS, PNDM

from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.schedule import VariancePreserving

GEOMETRY = Geometry(height=64, width=64, num_frames=9, fps=24.0)
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SETTINGS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 1}
SHAPE = (2, 4, 3, 4, 5)


def schedule(kind="epsilon"):
    return VariancePreserving(torch.cumprod(1.0 - BETAS, dim=0), kind)


def model(latents, timestep):
    """A prediction that depends on both and is of the size of noise."""
    return torch.sin(latents + timestep / 300.0) + 0.3 * latents


def ours(sampler, steps, noise, fresh=None):
    plan = sampler.plan(schedule(), steps, GEOMETRY)
    state = sampler.start(plan, noise)
    told = []
    for i in range(plan.num_steps):
        drawn = fresh(i) if fresh is not None and sampler.needs_noise(plan, i, None) else None
        told.append(plan.timesteps[i])
        said = Prediction(model(sampler.model_input(plan, i, state), told[-1]))
        state = sampler.step(plan, i, state, said, drawn)
    return state.latents, told


def theirs(scheduler, steps, noise, **kwargs):
    scheduler.set_timesteps(steps)
    latents, told = noise * scheduler.init_noise_sigma, []
    for timestep in scheduler.timesteps:
        told.append(float(timestep))
        prediction = model(scheduler.scale_model_input(latents, timestep), told[-1])
        latents = scheduler.step(prediction, timestep, latents, **kwargs).prev_sample
    return latents, told


def agree(first, second, tolerance):
    assert first[1] == second[1]
    distance = float((first[0] - second[0]).norm() / second[0].norm())
    assert distance <= tolerance, f"{distance:.2e}"


def noise():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("steps", [4, 20, 40, 50])
def test_pndm_is_diffusers(steps):
    from diffusers import PNDMScheduler

    agree(ours(PNDM(), steps + EXTRA_CALLS, noise()), theirs(PNDMScheduler(**SETTINGS), steps, noise()), 1e-5)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_ddim_is_diffusers(steps, clip):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**SETTINGS, clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    agree(ours(ClippedDDIM(clip), steps, noise()), theirs(scheduler, steps, noise()), 1e-5)


@pytest.mark.parametrize("steps", [2, 4, 50])
def test_euler_ancestral_is_diffusers(steps):
    from diffusers import EulerAncestralDiscreteScheduler

    stream = torch.Generator().manual_seed(5)
    wanted = theirs(EulerAncestralDiscreteScheduler(**SETTINGS), steps, noise(), generator=stream)
    again = torch.Generator().manual_seed(5)

    def fresh(i):
        return torch.randn(SHAPE, generator=again, dtype=torch.float64)

    agree(ours(EulerAncestral(), steps, noise(), fresh), wanted, 1e-5)
