"""`lcm`: T2V-Turbo's timesteps, and the steps of diffusers' LCMScheduler, which has the same rule."""

from __future__ import annotations

import pytest
import torch
from diffusers import LCMScheduler

from vader_core.builtin.samplers.lcm import LCM
from vader_core.builtin.samplers.options import LCMOptions
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.schedule import VariancePreserving
from vader_core.testing import check_sampler

GEOMETRY = Geometry(64, 64, 4, 8)
NAMES = {"epsilon": "epsilon", "v": "v_prediction"}


def plan_of(steps, kind="epsilon", **options):
    sampler = LCM(LCMOptions(**options))
    return sampler, sampler.plan(
        VariancePreserving(VariancePreserving.scaled_linear(), kind), steps, GEOMETRY
    )


@pytest.mark.parametrize(
    ("steps", "grid", "wanted"),
    [
        (4, 50, (999, 759, 519, 279)),
        (8, 50, (999, 879, 759, 639, 519, 399, 279, 159)),
        (4, 200, (999, 749, 499, 249)),
        (1, 50, (999,)),
    ],
)
def test_timesteps_are_t2v_turbos(steps, grid, wanted):
    assert plan_of(steps, grid=grid)[1].timesteps == wanted


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize(("steps", "grid"), [(1, 50), (4, 50), (5, 200)])
def test_every_step_is_diffusers(kind, steps, grid):
    sampler, plan = plan_of(steps, kind, grid=grid)
    scheduler = LCMScheduler(prediction_type=NAMES[kind], clip_sample=False)
    scheduler.set_timesteps(timesteps=[int(t) for t in plan.timesteps])
    draw = torch.Generator().manual_seed(3)
    state = sampler.start(plan, torch.randn(2, 4, 3, 5, 7, generator=draw))
    for i, timestep in enumerate(scheduler.timesteps):
        prediction = torch.randn(state.latents.shape, generator=draw)
        noise = torch.randn(state.latents.shape, generator=torch.Generator().manual_seed(i))
        theirs = scheduler.step(
            prediction, timestep, state.latents, generator=torch.Generator().manual_seed(i)
        )
        given = Prediction(prediction)
        size = float(theirs.denoised.abs().max())
        assert float((sampler.clean(plan, i, state, given) - theirs.denoised).abs().max()) <= 4e-6 * size
        fresh = noise if sampler.needs_noise(plan, i, Conditioning({})) else None
        state = sampler.step(plan, i, state, given, fresh)
        assert float((state.latents - theirs.prev_sample).abs().max()) <= 4e-6 * size
    assert fresh is None  # the last step ends at the data


def test_an_extra_scale_of_the_data_is_left_out():
    plain, scaled = (
        LCM().plan(VariancePreserving(VariancePreserving.scaled_linear(), scale=scale), 4, GEOMETRY)
        for scale in (None, torch.linspace(1.0, 0.7, 1000))
    )
    assert plain.tables == scaled.tables


@pytest.mark.parametrize(("steps", "grid"), [(60, 50), (4, 2000)])
def test_a_grid_that_cannot_be_is_refused(steps, grid):
    with pytest.raises(VaderError, match=r"sampler\.grid"):
        plan_of(steps, grid=grid)


def test_contract():
    check_sampler("lcm")
