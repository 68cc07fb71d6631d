"""`flow_euler` and `flow_unipc` against diffusers' schedulers, as the families' pipelines call them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vader_core.builtin.samplers.flow_euler import FlowEuler
from vader_core.builtin.samplers.flow_unipc import FlowUniPC
from vader_core.builtin.samplers.options import FlowEulerOptions, FlowUniPCOptions, RectifiedFlowOptions
from vader_core.builtin.samplers.rectified_flow import RectifiedFlowEuler
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.schedule import RectifiedFlow
from vader_core.testing import check_sampler

GEOMETRY = Geometry(64, 64, 5, 8)
STEPS = (1, 2, 3, 5, 15, 30, 50)
SHAPE = (2, 4, 3, 5, 7)

torch.set_num_threads(1)


def draw(number: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number), dtype=dtype)


def model(state: torch.Tensor, timestep: float) -> torch.Tensor:
    """Something smooth that hears both."""
    return torch.sin(1.3 * state) + 0.3 * state - timestep / 1700


def ours(sampler, plan, noise):
    state = sampler.start(plan, noise)
    seen = []
    for i in range(plan.num_steps):
        seen.append(state.latents)
        prediction = Prediction(model(state.latents, plan.timesteps[i]))
        state = sampler.step(plan, i, state, prediction, None)
    return state.latents, seen


def theirs(scheduler, noise):
    latents, seen = noise, []
    for timestep in scheduler.timesteps:
        seen.append(latents)
        latents = scheduler.step(model(latents, float(timestep)), timestep, latents).prev_sample
    return latents, seen


def close(one: torch.Tensor, other: torch.Tensor, within: float) -> None:
    assert float((one - other).abs().max()) <= within * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("shift", "order"),
    [(1.0, 2), (3.0, 2), (5.0, 2), (8.0, 2), (12.0, 2), (3.0, 1)],
    ids=lambda value: str(value),
)
def test_unipc_is_diffusers_unipc(steps, shift, order):
    """Wan's scheduler: 2.1 with 3, 5 and 8, 2.2 with 5 and 12."""
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, solver_order=order
    )
    scheduler.set_timesteps(steps)
    sampler = FlowUniPC(FlowUniPCOptions(order=order))
    plan = sampler.plan(RectifiedFlow(shift=shift), steps, GEOMETRY)
    assert list(plan.timesteps) == [float(t) for t in scheduler.timesteps]
    assert list(plan.tables["tau"]) == [float(sigma) for sigma in scheduler.sigmas]
    scheduler.sigmas = scheduler.sigmas.double()  # its arithmetic in float64, on its own float32 levels
    found, mine = ours(sampler, plan, draw(0))
    wanted, given = theirs(scheduler, draw(0))
    for one, other in zip(mine, given, strict=True):
        close(one, other, 1e-9)
    close(found, wanted, 1e-9)


def test_unipc_with_a_terminal_level_is_diffusers():
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, shift_terminal=0.1
    )
    scheduler.set_timesteps(7)
    plan = FlowUniPC().plan(RectifiedFlow(shift=3.0, terminal=0.1), 7, GEOMETRY)
    assert list(plan.tables["tau"]) == pytest.approx([float(s) for s in scheduler.sigmas], rel=1e-6)
    assert list(plan.timesteps) == [float(t) for t in scheduler.timesteps]


def euler(steps, *, sigmas=None, timesteps=None, mu=None, **config):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    if sigmas is not None or timesteps is not None:
        scheduler.set_timesteps(sigmas=sigmas, timesteps=timesteps, mu=mu)
    else:
        scheduler.set_timesteps(steps, mu=mu)
    return scheduler


def compare(scheduler, sampler, schedule, steps):
    plan = sampler.plan(schedule, steps, GEOMETRY)
    assert list(plan.timesteps) == pytest.approx([float(t) for t in scheduler.timesteps], rel=1e-6)
    assert list(plan.tables["tau"]) == pytest.approx([float(s) for s in scheduler.sigmas], rel=1e-6)
    found, _ = ours(sampler, plan, draw(0))
    wanted, _ = theirs(scheduler, draw(0))
    close(found, wanted, 3e-6)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 7.0, 9.0])
def test_euler_at_even_times_is_diffusers(steps, shift):
    """HunyuanVideo (7) and 1.5 (5, 7, 9) hand the scheduler 1 … 1 / S."""
    scheduler = euler(steps, sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], shift=shift)
    compare(scheduler, FlowEuler(), RectifiedFlow(shift=shift), steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_euler_at_its_own_times_is_diffusers(steps, shift):
    """Wan under FlowMatchEuler: the smallest time is shifted twice."""
    scheduler = euler(steps, shift=shift)
    compare(scheduler, FlowEuler(), RectifiedFlow(shift=shift, spacing="trained_shifted"), steps)


@pytest.mark.parametrize("steps", STEPS[1:])  # a single level of 1 cannot be stretched
@pytest.mark.parametrize("terminal", [None, 0.1])
def test_euler_with_a_dynamic_shift_is_diffusers(steps, terminal):
    """LTX: exp(mu), stretched to end at 0.1."""
    config = {"use_dynamic_shifting": True, "shift_terminal": terminal}
    scheduler = euler(steps, sigmas=np.linspace(1.0, 1 / steps, steps), mu=1.37, **config)
    compare(scheduler, FlowEuler(), RectifiedFlow(shift=math.exp(1.37), terminal=terminal), steps)


@pytest.mark.parametrize("steps", STEPS)
def test_euler_dynamic_at_its_own_times_is_diffusers(steps):
    scheduler = euler(steps, mu=0.8, use_dynamic_shifting=True)
    compare(scheduler, FlowEuler(), RectifiedFlow(shift=math.exp(0.8), spacing="trained"), steps)


def test_euler_at_given_levels_is_diffusers():
    """The distilled models of LTX are published with their own levels."""
    distilled = (1.0, 0.993, 0.987, 0.981, 0.975, 0.909, 0.725, 0.03)
    scheduler = euler(None, timesteps=[1000 * sigma for sigma in distilled], sigmas=list(distilled))
    sampler = FlowEuler(FlowEulerOptions(sigmas=distilled))
    compare(scheduler, sampler, RectifiedFlow(), len(distilled))
    with pytest.raises(VaderError, match="8 sigmas are given for 9 steps"):
        sampler.plan(RectifiedFlow(), 9, GEOMETRY)


@pytest.mark.parametrize("steps", STEPS)
def test_linear_quadratic_levels_are_diffusers(steps):
    from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule

    plan = FlowEuler().plan(RectifiedFlow(spacing="linear_quadratic"), steps, GEOMETRY)
    wanted = [*linear_quadratic_schedule(steps).tolist(), 0.0]
    assert plan.tables["tau"] == pytest.approx(wanted, abs=2e-7)


def test_stochastic_steps_are_diffusers():
    scheduler = euler(None, sigmas=[1.0, 0.6, 0.2], stochastic_sampling=True)
    sampler = FlowEuler(FlowEulerOptions(sigmas=(1.0, 0.6, 0.2), stochastic=True))
    plan = sampler.plan(RectifiedFlow(), 3, GEOMETRY)
    assert [sampler.needs_noise(plan, i, None) for i in range(3)] == [True, True, False]
    state, latents = sampler.start(plan, draw(0)), draw(0)
    for i, timestep in enumerate(scheduler.timesteps):
        prediction, generator = model(latents, float(timestep)), torch.Generator().manual_seed(50 + i)
        latents = scheduler.step(prediction, timestep, latents, generator=generator).prev_sample
        fresh = draw(50 + i, torch.float32) if i < 2 else None
        state = sampler.step(plan, i, state, Prediction(prediction), fresh)
        close(state.latents, latents, 3e-6)


@pytest.mark.parametrize("steps", [1, 4, 15])
@pytest.mark.parametrize("sign", [1, -1])
def test_rectified_flow_is_the_simplest_case(steps, sign):
    """Of the schedule it takes the shift alone; there the two agree to diffusers' rounding to float32."""
    plain = RectifiedFlow(shift=3.0, velocity_sign=sign)
    simple = RectifiedFlowEuler(RectifiedFlowOptions()).plan(plain, steps, GEOMETRY)
    rounded = FlowEuler().plan(plain, steps, GEOMETRY)
    assert simple.timesteps == pytest.approx(rounded.timesteps, rel=1e-7)
    for name in ("tau", "length", "to_clean"):
        assert simple.tables[name] == pytest.approx(rounded.tables[name], rel=1e-6, abs=1e-7)
    richer = RectifiedFlow(shift=3.0, velocity_sign=sign, spacing="trained", terminal=0.1)
    assert RectifiedFlowEuler().plan(richer, steps, GEOMETRY) == simple


def test_options_replace_what_the_schedule_says():
    schedule = RectifiedFlow(shift=2.0, spacing="trained", terminal=0.2)
    sampler = FlowEuler(FlowEulerOptions(shift=5.0, spacing="even", terminal=0.1))
    wanted = FlowEuler().plan(RectifiedFlow(shift=5.0, terminal=0.1), 6, GEOMETRY)
    assert sampler.plan(schedule, 6, GEOMETRY) == wanted
    wanted = FlowUniPC().plan(RectifiedFlow(shift=5.0), 6, GEOMETRY)
    assert FlowUniPC(FlowUniPCOptions(shift=5.0)).plan(RectifiedFlow(shift=2.0), 6, GEOMETRY) == wanted


@pytest.mark.parametrize("sigmas", [(0.5, 0.9), (1.2, 0.5), (1.0, 0.0), ()])
def test_levels_that_do_not_fall_from_1_are_refused(sigmas):
    with pytest.raises(ValidationError):
        FlowEulerOptions(sigmas=sigmas)


def test_unipc_gradient_is_that_of_the_same_steps():
    """The history keeps its graph: finite differences along one direction, in float64."""
    plan = FlowUniPC().plan(RectifiedFlow(shift=3.0), 5, GEOMETRY)

    def end(amount: torch.Tensor) -> torch.Tensor:
        found, _ = ours(FlowUniPC(), plan, draw(0) + amount * draw(1))
        return (found * draw(2)).mean()

    amount = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(end(amount), amount)
    with torch.no_grad():
        steps = torch.tensor([1e-5, -1e-5], dtype=torch.float64)
        difference = (end(steps[0]) - end(steps[1])) / 2e-5
    assert float(gradient) == pytest.approx(float(difference), rel=1e-7)


@pytest.mark.parametrize("name", ["flow_euler", "flow_unipc", "rectified_flow"])
def test_contract(name):
    check_sampler(name)


def test_contract_of_stochastic_steps():
    check_sampler("flow_euler", {"stochastic": True})
