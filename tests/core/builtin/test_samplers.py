"""The samplers against diffusers' schedulers, step by step, and against their own definitions."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vader_core.builtin.samplers.ddim import DDIM
from vader_core.builtin.samplers.dpmpp import DPMSolver
from vader_core.builtin.samplers.euler import Euler
from vader_core.builtin.samplers.options import (
    DDIMOptions,
    DPMSolverOptions,
    EulerOptions,
    RectifiedFlowOptions,
)
from vader_core.builtin.samplers.rectified_flow import RectifiedFlowEuler
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.registry import load_registry
from vader_core.schedule import RectifiedFlow, VarianceExploding, VariancePreserving

GEOMETRY = Geometry(64, 64, 4, 8)
STEPS = (1, 2, 5, 15, 25, 50)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DIFFUSERS_NAMES = {"epsilon": "epsilon", "v": "v_prediction"}
SHAPE = (2, 4, 3, 5, 7)

torch.set_num_threads(1)


def draw(number: int) -> torch.Tensor:
    """Standard normal float32 numbers, the same for the same number."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number))


def preserving(prediction_type: str, scheduler) -> VariancePreserving:
    """The schedule in float64, close to the one that the scheduler computes in float32."""
    schedule = VariancePreserving(VariancePreserving.scaled_linear(), prediction_type)
    assert torch.allclose(schedule.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=2e-5, atol=0)
    # take the scheduler's own numbers, so that what is compared below is the sampler alone
    return VariancePreserving(scheduler.alphas_cumprod.double(), prediction_type)


def close(ours: torch.Tensor, theirs: torch.Tensor, inputs: torch.Tensor) -> None:
    """Equal to float32 rounding, relative to the largest number that enters."""
    size = max(float(inputs.abs().max()), float(theirs.abs().max()), 1.0)
    assert float((ours - theirs).abs().max()) <= 4e-6 * size


def walk(sampler, plan, scheduler, state, *, eta=None, start=0):
    """Give both the same predictions and compare every model input, estimate and state."""
    for i, timestep in enumerate(scheduler.timesteps):
        assert plan.timesteps[i] == pytest.approx(float(timestep), rel=1e-6)
        given = scheduler.scale_model_input(state.latents, timestep)
        close(sampler.model_input(plan, i, state), given, given)
        prediction, noise = draw(100 + i), draw(200 + i)
        options = {} if eta is None else {"eta": eta, "variance_noise": noise}
        stepped = scheduler.step(prediction, timestep, state.latents, **options)
        clean = sampler.clean(plan, i, state, Prediction(prediction))
        if getattr(stepped, "pred_original_sample", None) is not None:
            close(clean, stepped.pred_original_sample, torch.cat([state.latents, clean]))
        following = sampler.step(plan, i, state, Prediction(prediction), noise)
        close(following.latents, stepped.prev_sample, torch.cat([state.latents, clean]))
        assert following.latents.dtype == torch.float32
        state = following.at(stepped.prev_sample)
    return state


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
@pytest.mark.parametrize(
    ("spacing", "offset", "to_one", "eta"),
    [
        ("leading", 1, False, 0.0),
        ("leading", 0, True, 1.0),
        ("trailing", 0, True, 0.5),
        ("linspace", 0, False, 0.0),
    ],
)
def test_ddim_is_diffusers_ddim(steps, prediction_type, spacing, offset, to_one, eta):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        **BETAS,
        clip_sample=False,
        set_alpha_to_one=to_one,
        steps_offset=offset,
        timestep_spacing=spacing,
        prediction_type=DIFFUSERS_NAMES[prediction_type],
    )
    scheduler.set_timesteps(steps)
    sampler = DDIM(
        DDIMOptions(eta=eta, timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=to_one)
    )
    plan = sampler.plan(preserving(prediction_type, scheduler), steps, GEOMETRY)
    assert plan.num_steps == steps
    walk(sampler, plan, scheduler, sampler.start(plan, draw(0)), eta=eta)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
@pytest.mark.parametrize(
    ("spacing", "offset", "order"),
    [("linspace", 0, 2), ("leading", 1, 2), ("trailing", 0, 2), ("linspace", 0, 1)],
)
def test_dpmpp_is_diffusers_multistep(steps, prediction_type, spacing, offset, order):
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        **BETAS,
        solver_order=order,
        steps_offset=offset,
        timestep_spacing=spacing,
        prediction_type=DIFFUSERS_NAMES[prediction_type],
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    sampler = DPMSolver(DPMSolverOptions(order=order, timestep_spacing=spacing, steps_offset=offset))
    plan = sampler.plan(preserving(prediction_type, scheduler), steps, GEOMETRY)
    assert plan.num_steps == steps
    end = walk(sampler, plan, scheduler, sampler.start(plan, draw(0)))
    assert torch.isfinite(end.latents).all()


@pytest.mark.parametrize("steps", STEPS)
def test_euler_is_diffusers_euler_on_a_karras_schedule(steps):
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(
        **BETAS,
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    sampler = Euler()
    plan = sampler.plan(VarianceExploding(0.002, 700.0), steps, GEOMETRY)
    assert plan.num_steps == steps
    assert torch.allclose(torch.tensor([*plan.tables["sigma"], 0.0]), scheduler.sigmas, rtol=1e-6)
    state = sampler.start(plan, draw(0))
    close(state.latents, draw(0) * scheduler.init_noise_sigma, state.latents)
    walk(sampler, plan, scheduler, state)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_euler_is_diffusers_euler_on_a_discrete_schedule(steps, prediction_type, spacing):
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(
        **BETAS,
        prediction_type=DIFFUSERS_NAMES[prediction_type],
        timestep_spacing=spacing,
        steps_offset=1 if spacing == "leading" else 0,
    )
    scheduler.set_timesteps(steps)
    sampler = Euler(EulerOptions(timestep_spacing=spacing))
    plan = sampler.plan(preserving(prediction_type, scheduler), steps, GEOMETRY)
    assert plan.num_steps == steps
    walk(sampler, plan, scheduler, sampler.start(plan, draw(0)))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_rectified_flow_is_diffusers_flow_matching(steps, shift):
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    sampler = RectifiedFlowEuler()
    plan = sampler.plan(RectifiedFlow(shift=shift), steps, GEOMETRY)
    state = sampler.start(plan, draw(0))
    for i, timestep in enumerate(scheduler.timesteps):
        assert plan.timesteps[i] == pytest.approx(float(timestep), rel=1e-5)
        prediction = draw(100 + i)
        theirs = scheduler.step(prediction, timestep, state.latents).prev_sample
        state = sampler.step(plan, i, state, Prediction(prediction), None)
        close(state.latents, theirs, state.latents)
        state = state.at(theirs)


def found_goldens(pattern):
    """Stored schedules of the official code, found as the parity tests find theirs."""
    place = Path(__file__).parents[2] / "parity" / "goldens.py"
    spec = importlib.util.spec_from_file_location("goldens", place)
    goldens = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(goldens)
    plugin, _, name = pattern.partition("/")
    return [load_file(path) for path in goldens.golden_paths(plugin, name)]


@pytest.mark.golden
@pytest.mark.parametrize("stored", found_goldens("svd/schedule.safetensors"))
def test_euler_has_the_published_svd_levels(stored):
    plan = Euler().plan(VarianceExploding(0.002, 700.0), 25, GEOMETRY)
    assert torch.allclose(torch.tensor([*plan.tables["sigma"], 0.0]), stored["sigmas_25"], rtol=1e-6, atol=0)
    assert torch.allclose(torch.tensor(plan.timesteps), stored["timesteps_25"], rtol=1e-6, atol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("stored", found_goldens("modelscope/schedule.safetensors"))
def test_ddim_and_dpmpp_have_the_published_modelscope_timesteps(stored):
    schedule = VariancePreserving(VariancePreserving.scaled_linear())
    assert torch.allclose(schedule.alphas_cumprod.float(), stored["alphas_cumprod"], rtol=2e-5, atol=0)
    assert list(DDIM().plan(schedule, 25, GEOMETRY).timesteps) == stored["ddim_timesteps_25"].tolist()
    assert list(DPMSolver().plan(schedule, 25, GEOMETRY).timesteps) == stored["dpm_timesteps_25"].tolist()


CASES = {
    "ddim epsilon": (DDIM(), VariancePreserving(VariancePreserving.scaled_linear(), "epsilon")),
    "ddim v": (DDIM(), VariancePreserving(VariancePreserving.scaled_linear(), "v")),
    "ddim to one": (
        DDIM(DDIMOptions(set_alpha_to_one=True)),
        VariancePreserving(VariancePreserving.scaled_linear(), "v"),
    ),
    "dpmpp epsilon": (DPMSolver(), VariancePreserving(VariancePreserving.scaled_linear(), "epsilon")),
    "dpmpp v": (DPMSolver(), VariancePreserving(VariancePreserving.scaled_linear(), "v")),
    "euler karras": (Euler(), VarianceExploding(0.002, 700.0)),
    "euler karras epsilon": (Euler(), VarianceExploding(0.02, 80.0, prediction_type="epsilon")),
    "euler epsilon": (Euler(), VariancePreserving(VariancePreserving.scaled_linear(), "epsilon")),
    "euler churn": (
        Euler(EulerOptions(churn=3.0)),
        VariancePreserving(VariancePreserving.scaled_linear(), "v"),
    ),
    "rectified flow": (RectifiedFlowEuler(), RectifiedFlow(shift=2.0)),
    "rectified flow, clean minus noise": (RectifiedFlowEuler(), RectifiedFlow(velocity_sign=-1)),
    "rectified flow, own shift": (RectifiedFlowEuler(RectifiedFlowOptions(shift=5.0)), RectifiedFlow()),
    "ddim scaled": (
        DDIM(DDIMOptions(eta=1.0)),
        VariancePreserving(VariancePreserving.scaled_linear(), scale=torch.linspace(1.0, 0.7, 1000)),
    ),
    "dpmpp scaled": (
        DPMSolver(),
        VariancePreserving(VariancePreserving.scaled_linear(), scale=torch.linspace(1.0, 0.7, 1400)),
    ),
    "euler scaled": (
        Euler(),
        VariancePreserving(VariancePreserving.scaled_linear(), scale=torch.linspace(1.0, 0.7, 1000)),
    ),
}


def oracle(schedule, latents, clean, timestep):
    """What a perfect model of one clip predicts, given its own input."""
    if isinstance(schedule, RectifiedFlow):
        tau = timestep / schedule.num_train_timesteps
        return schedule.velocity_sign * (latents - clean) / tau
    if isinstance(schedule, VarianceExploding):
        import math

        sigma = math.exp(4.0 * timestep)
        alpha, noise_part = 1.0 / math.sqrt(sigma**2 + 1), sigma / math.sqrt(sigma**2 + 1)
    else:
        cumprod = schedule.alphas_cumprod
        grid = torch.arange(len(cumprod), dtype=torch.float64)
        import numpy as np

        sigma = float(np.interp(timestep, grid, ((1 - cumprod) / cumprod).sqrt()))
        alpha, noise_part = (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5
        if schedule.scale is not None:
            alpha *= float(np.interp(timestep, grid, schedule.scale[:1000].double()))
    epsilon = (latents - alpha * clean) / noise_part
    return epsilon if schedule.prediction_type == "epsilon" else alpha * epsilon - noise_part * clean


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("steps", [1, 4, 15])
def test_a_perfect_model_leads_to_its_clip(name, steps):
    """`clean` inverts `renoise`, every path from any step ends at the clip, float64 stays float64."""
    sampler, schedule = CASES[name]
    plan = sampler.plan(schedule, steps, GEOMETRY)
    clean = draw(1).double()
    for begin in {0, steps // 2, steps - 1}:
        state = sampler.renoise(plan, begin, clean, draw(2).double())
        for i in range(begin, steps):
            noise = draw(300 + i).double() if sampler.needs_noise(plan, i, None) else None
            state = sampler.before_step(plan, i, state, None, noise)
            prediction = oracle(schedule, sampler.model_input(plan, i, state), clean, plan.timesteps[i])
            assert torch.allclose(sampler.clean(plan, i, state, Prediction(prediction)), clean, atol=1e-6)
            state = sampler.step(plan, i, state, Prediction(prediction), noise)
        rest = 0.05 if name in ("ddim epsilon", "ddim v", "ddim scaled") else 1e-6
        assert state.latents.dtype == torch.float64
        assert float((state.latents - clean).abs().max()) < rest * 5


@pytest.mark.parametrize("name", CASES)
def test_samplers_are_pure_and_differentiable(name):
    """The same arguments give the same result; every step passes a gradient to the prediction."""
    sampler, schedule = CASES[name]
    plan = sampler.plan(schedule, 6, GEOMETRY)
    assert plan == sampler.plan(schedule, 6, GEOMETRY)
    state = sampler.start(plan, draw(0).requires_grad_())
    history = []
    for i in range(6):
        noise = draw(i)
        before = state.latents.detach().clone()
        prediction = draw(10 + i).requires_grad_()
        first = sampler.step(plan, i, state, Prediction(prediction), noise)
        again = sampler.step(plan, i, state, Prediction(prediction), noise)
        assert torch.equal(first.latents, again.latents)
        assert torch.equal(before, state.latents)
        gradients = torch.autograd.grad(
            first.latents.sum(), [state.latents, prediction], retain_graph=True, allow_unused=True
        )
        assert gradients[1] is not None
        assert float(gradients[1].abs().sum()) > 0
        history.append(gradients[0])
        state = first
    assert history[0] is not None


def test_dpmpp_uses_its_history():
    sampler = DPMSolver()
    plan = sampler.plan(CASES["dpmpp v"][1], 5, GEOMETRY)
    state = sampler.step(plan, 0, sampler.start(plan, draw(0)), Prediction(draw(1)), None)
    assert len(state.history) == 1
    with_history = sampler.step(plan, 1, state, Prediction(draw(2)), None).latents
    without = sampler.step(plan, 1, sampler.start(plan, state.latents), Prediction(draw(2)), None).latents
    assert float((with_history - without).abs().max()) > 1e-2


def test_churn_adds_noise_at_the_right_level():
    schedule = VarianceExploding(0.02, 80.0)
    sampler = Euler(EulerOptions(churn=2.0))
    plan = sampler.plan(schedule, 10, GEOMETRY)
    plain = Euler().plan(schedule, 10, GEOMETRY)
    assert not sampler.needs_noise(plan, 0, None)
    assert all(sampler.needs_noise(plan, i, None) for i in range(1, 10))
    assert not any(Euler().needs_noise(plain, i, None) for i in range(10))
    assert plan.tables["churned"][4] == pytest.approx(plan.tables["sigma"][4] * 1.2)
    raised = sampler.before_step(
        plan, 4, sampler.renoise(plan, 4, torch.zeros(SHAPE), draw(0)), None, draw(1)
    )
    assert float(raised.latents.std()) == pytest.approx(plan.tables["churned"][4], rel=0.1)


LINEAR = torch.linspace(0.9, 0.1, 10, dtype=torch.float64)
NO_SIGNAL_V = VariancePreserving(torch.linspace(0.9, 0.0, 10, dtype=torch.float64), "v")
NO_SIGNAL_EPSILON = VariancePreserving(torch.linspace(1.0, 0.0, 10, dtype=torch.float64))


@pytest.mark.parametrize(
    ("sampler", "schedule", "steps", "message"),
    [
        (DDIM(), RectifiedFlow(), 5, "VariancePreserving"),
        (RectifiedFlowEuler(), CASES["ddim v"][1], 5, "RectifiedFlow"),
        (DPMSolver(), VarianceExploding(0.1, 1.0), 5, "--sampler"),
        (DDIM(), CASES["ddim v"][1], 0, "--num-steps 0"),
        (DDIM(), CASES["ddim v"][1], 1001, "at most 1000"),
        (DPMSolver(), CASES["ddim v"][1], 1000, "at most 999"),
        (DDIM(DDIMOptions(steps_offset=5)), CASES["ddim v"][1], 1000, "steps_offset=5"),
        (Euler(EulerOptions(timestep_spacing="leading")), VarianceExploding(0.1, 1.0), 5, "timestep_spacing"),
        (Euler(EulerOptions(timestep_spacing="linspace", steps_offset=1)), NO_SIGNAL_V, 5, "steps_offset"),
        (DDIM(DDIMOptions(timestep_spacing="linspace")), NO_SIGNAL_EPSILON, 5, "v prediction"),
        (DPMSolver(), NO_SIGNAL_V, 5, "--sampler ddim"),
        (Euler(), NO_SIGNAL_V, 5, "--sampler ddim"),
        (DDIM(), VariancePreserving(LINEAR, "velocity"), 5, "epsilon or v"),
        (DDIM(), VariancePreserving(LINEAR, "v", torch.ones(10)), 5, "extra scale"),
        (RectifiedFlowEuler(), RectifiedFlow(prediction_type="v"), 5, "velocity"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_in_words(sampler, schedule, steps, message):
    with pytest.raises(VaderError, match=message):
        sampler.plan(schedule, steps, GEOMETRY)


def test_zero_signal_v_schedule_works_with_ddim():
    """A schedule whose last timestep holds no signal at all (Lin et al. 2023) is fine for v prediction."""
    schedule = VariancePreserving(torch.linspace(0.99, 0.0, 1000, dtype=torch.float64), "v")
    sampler = DDIM(DDIMOptions(timestep_spacing="trailing", set_alpha_to_one=True))
    plan = sampler.plan(schedule, 4, GEOMETRY)
    state = sampler.start(plan, draw(0))
    for i in range(4):
        state = sampler.step(plan, i, state, Prediction(draw(i)), None)
    assert torch.isfinite(state.latents).all()


@pytest.mark.parametrize("steps", [*range(1, 60), 333, 700, 998])
def test_step_counts_are_exact(steps):
    for (sampler, schedule), spacing in itertools.product(
        [CASES["ddim v"], CASES["dpmpp v"], CASES["euler epsilon"]], ["leading", "trailing", "linspace"]
    ):
        options = sampler.options.model_copy(update={"timestep_spacing": spacing})
        plan = type(sampler)(options).plan(schedule, steps, GEOMETRY)
        assert plan.num_steps == steps
        assert all(a > b for a, b in itertools.pairwise(plan.timesteps))
        assert min(plan.timesteps) >= 0
        assert max(plan.timesteps) <= 999
        assert all(len(column) >= steps for column in plan.tables.values())


def test_the_samplers_are_registered():
    samplers = load_registry().components["sampler"]
    for name, kind in {
        "ddim": DDIM,
        "dpmpp": DPMSolver,
        "euler": Euler,
        "rectified_flow": RectifiedFlowEuler,
    }.items():
        assert samplers[name].plugin == "builtin"
        assert isinstance(samplers[name].make({}, device="cpu", dtype=torch.float32), kind)
    with pytest.raises(VaderError, match="timestep_spacing"):
        samplers["ddim"].make({"timestep_spacin": "leading"}, device="cpu", dtype=torch.float32)
