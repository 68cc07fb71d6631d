"""The contract of a sampler, clause by clause."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.randomness import Randomness
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import RectifiedFlow, Schedule, VarianceExploding, VariancePreserving
from vader_core.testing.conformance import (
    Contract,
    Subject,
    expect,
    expect_refused,
    expect_tensor,
    global_state_untouched,
    relative,
    reseeded,
)

SAMPLER = Contract("sampler")
check_sampler, sampler_clauses, sampler_subject = SAMPLER.check, SAMPLER.clauses, SAMPLER.subject

#: Root mean square distance from the data that a rollout with a perfect model may end at: schedules may stop
#: at their own smallest noise (0.03 for Latent Diffusion's) instead of at none.
ARRIVAL = 0.1

# 17 frames, of which four-fold compression makes five latent ones: long enough for every sampler's rules.
_GEOMETRY = Geometry(height=32, width=24, num_frames=17, fps=8.0)
_SHAPE = (4, 5, 4, 3)
_CONDITIONING = Conditioning({"text": torch.zeros(2, 3)})


# -- what the clauses work with ------------------------------------------------------------------------------


def _schedules() -> dict[str, Schedule]:
    alphas = VariancePreserving.scaled_linear()
    return {
        "epsilon": VariancePreserving(alphas, "epsilon"),
        "v": VariancePreserving(alphas, "v"),
        "exploding v": VarianceExploding(0.02, 80.0, prediction_type="v"),
        "exploding epsilon": VarianceExploding(0.02, 80.0, prediction_type="epsilon"),
        "flow": RectifiedFlow(),
        "shifted flow, other sign": RectifiedFlow(shift=3.0, velocity_sign=-1),
    }


@dataclass(frozen=True)
class Course:
    """A sampler with one of its schedules and a plan."""

    label: str
    sampler: Sampler
    schedule: Schedule
    plan: Plan
    wanted: int

    def __str__(self) -> str:
        return f"{self.label}, {self.wanted} steps"


def _courses(subject: Subject, steps: tuple[int, ...] = (1, 2, 5)) -> Iterator[Course]:
    sampler: Sampler = subject.make()
    for label, schedule in _schedules().items():
        if isinstance(schedule, sampler.schedules):
            for count in steps:
                made = sampler.plan(schedule, count, _GEOMETRY)
                yield Course(label, sampler, schedule, made, count)


def _normal(purpose: str, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = Randomness(seed=7, samples=(0, 1)).normal(purpose, _SHAPE, dtype=torch.float64)
    return drawn.to(dtype)


@dataclass(frozen=True)
class Mixture:
    """What a model input holds: ``signal`` x_0 + ``noise`` epsilon."""

    signal: float
    noise: float


def _mixture(course: Course, i: int) -> Mixture:
    """The proportions in which the model is given data and noise at step ``i``, read off ``renoise``."""
    clean, noise = _normal("clean"), _normal("noise")
    given = course.sampler.model_input(course.plan, i, course.sampler.renoise(course.plan, i, clean, noise))
    columns = torch.stack([clean.flatten(), noise.flatten()], dim=1)
    signal, share = torch.linalg.lstsq(columns, given.flatten()).solution.tolist()
    rest = float((columns @ torch.tensor([signal, share], dtype=columns.dtype) - given.flatten()).abs().max())
    expect(rest < 1e-6, f"{course}: the model input of step {i} is no mixture of data and noise ({rest:.1g})")
    return Mixture(signal, share)


def _perfect(course: Course, i: int, given: Tensor, clean: Tensor) -> Tensor:
    """What a model that knows the data would predict from the input ``given``."""
    mixture = _mixture(course, i)
    noise = (given - mixture.signal * clean) / mixture.noise
    if isinstance(course.schedule, RectifiedFlow):
        return course.schedule.velocity_sign * (noise - clean)
    if course.schedule.prediction_type == "epsilon":
        return noise
    return mixture.signal * noise - mixture.noise * clean


def _step(course: Course, i: int, state: State, predict: Callable[[int, Tensor], Tensor]) -> State:
    """One whole step, as the core's rollout takes it."""
    sampler, plan = course.sampler, course.plan
    fresh = None
    if sampler.needs_noise(plan, i, _CONDITIONING):
        fresh = _normal(f"fresh {i}", state.latents.dtype)
    state = sampler.before_step(plan, i, state, _CONDITIONING, fresh)
    predicted = Prediction(predict(i, sampler.model_input(plan, i, state)))
    state = sampler.step(plan, i, state, predicted, fresh)
    return sampler.after_step(plan, i, state, _CONDITIONING, fresh)


def _rollout(course: Course, predict: Callable[[int, Tensor], Tensor], noise: Tensor) -> Tensor:
    state = course.sampler.start(course.plan, noise)
    for i in range(course.plan.num_steps):
        state = _step(course, i, state, predict)
    return state.latents


def _invented(i: int, given: Tensor) -> Tensor:
    """A prediction that depends on its input alone."""
    return 0.5 * torch.sin(given + i)


def _ratio(tau: float) -> float:
    return tau / (1 - tau) if tau < 1 else math.inf


def _wanted_noise(schedule: Schedule, timestep: float) -> tuple[float, float]:
    """Smallest and largest noise-to-signal ratio that the schedule has at ``timestep``."""
    if isinstance(schedule, VarianceExploding):
        return (math.exp(4 * timestep),) * 2
    if isinstance(schedule, RectifiedFlow):
        # a whole timestep may stand for any time up to the next: some models are told no other
        ends = (timestep, timestep + 1 if timestep.is_integer() else timestep)
        low, high = (min(end / schedule.num_train_timesteps, 1.0) for end in ends)
        return (_ratio(low), _ratio(high))
    last = schedule.num_train_timesteps - 1
    around = (min(max(math.floor(timestep), 0), last), min(max(math.ceil(timestep), 0), last))
    low, high = (float(schedule.alphas_cumprod[index]) for index in around)
    return math.sqrt((1 - low) / low), math.sqrt((1 - high) / high)


# -- the clauses ---------------------------------------------------------------------------------------------


@SAMPLER.clause
def plan(subject: Subject) -> str:
    """A plan has exactly the steps that were asked for, falling timesteps, and tables of Python floats."""
    seen = []
    for course in _courses(subject, (1, 2, 4, 25)):
        made, wanted = course.plan, course.wanted
        expect(len(made.timesteps) == wanted, f"{course}: {len(made.timesteps)} timesteps")
        pairs = zip(made.timesteps, made.timesteps[1:], strict=False)
        # a Runge-Kutta step asks the model twice at one timestep
        expect(all(a >= b for a, b in pairs), f"{course}: timesteps {made.timesteps} do not fall")
        expect(
            made.prediction_type == course.schedule.prediction_type,
            f"{course}: the plan says {made.prediction_type!r}",
        )
        for name, table in {**made.tables, "timesteps": made.timesteps}.items():
            expect(len(table) in (wanted, wanted + 1), f"{course}: table {name!r} has {len(table)} rows")
            odd = [value for value in table if type(value) is not float or math.isnan(value)]
            expect(not odd, f"{course}: table {name!r} holds {odd[:1]}, no Python float")
        seen.append(course.label)
    expect(seen, "it follows no schedule: set `schedules`")
    return f"{', '.join(dict.fromkeys(seen))}; 1, 2, 4 and 25 steps"


@SAMPLER.clause
def refusals(subject: Subject) -> str:
    """A schedule of another kind, and a number of steps below 1, are refused with a message."""
    sampler: Sampler = subject.make()
    message = ""
    for label, schedule in _schedules().items():
        if isinstance(schedule, sampler.schedules):
            message = expect_refused(partial(sampler.plan, schedule, 0, _GEOMETRY), f"{label} with 0 steps")
        else:
            message = expect_refused(partial(sampler.plan, schedule, 4, _GEOMETRY), f"the schedule {label}")
    return message


@SAMPLER.clause
def purity(subject: Subject) -> str:
    """All a sampler knows is in its arguments: it keeps nothing, changes nothing, draws nothing."""
    count = 0
    for course in _courses(subject, (4,)):
        sampler, noise = course.sampler, _normal("start")
        before = copy.deepcopy(vars(sampler)) if hasattr(sampler, "__dict__") else {}
        kept = noise.clone()
        with reseeded(1), global_state_untouched():
            first = _rollout(course, _invented, noise)
        expect(torch.equal(noise, kept), f"{course}: the noise was changed in place")
        _rollout(course, _invented, _normal("another start"))
        with reseeded(2):
            again = _rollout(course, _invented, noise)
        off = relative(again, first)
        expect(off == 0, f"{course}: the same rollout twice differs by {off:.2g}")
        state = sampler.start(course.plan, noise)
        for i in range(course.plan.num_steps):
            _untouched(course, i, state)
            state = _step(course, i, state, _invented)
        expect(torch.equal(state.latents, first), f"{course}: repeated steps change the rollout")
        changed = [name for name, value in vars(sampler).items() if not _same(value, before.get(name))]
        expect(not changed, f"{course}: attributes {changed} changed during a rollout")
        count += 1
    return f"{count} schedules, rollouts repeated and interleaved"


def _untouched(course: Course, i: int, state: State) -> None:
    """Step ``i``, twice, leaves its arguments alone."""
    held = [state.latents, *state.history, *state.extra.values()]
    copies = [value.clone() for value in held]
    results = [_step(course, i, state, _invented).latents for _ in range(2)]
    for value, wanted in zip(held, copies, strict=True):
        expect(torch.equal(value, wanted), f"{course}: step {i} changed its state in place")
    expect(torch.equal(*results), f"{course}: step {i} twice from one state gives two results")


def _same(value: object, other: object) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return torch.equal(value, other)
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_same(value[key], other[key]) for key in value)
    return type(value) is type(other) and bool(value == other)


@SAMPLER.clause
def dtypes(subject: Subject) -> str:
    """Latents keep their shape and dtype through every step: float32, float64 and bfloat16."""
    for course in _courses(subject, (3,)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            noise = _normal("start", dtype)
            final = _rollout(course, _invented, noise)
            expect_tensor(final, (2, *_SHAPE), f"{course}, {dtype}: the latents", dtype=dtype)
            i = course.plan.num_steps - 1
            state = course.sampler.renoise(course.plan, i, _normal("clean", dtype), noise)
            expect_tensor(state.latents, (2, *_SHAPE), f"{course}, {dtype}: renoise", dtype=dtype)
            estimate = course.sampler.clean(course.plan, i, state, Prediction(_invented(i, noise)))
            expect_tensor(estimate, (2, *_SHAPE), f"{course}, {dtype}: clean", dtype=dtype)
    return "float32, float64, bfloat16"


@SAMPLER.clause
def model_input(subject: Subject) -> str:
    """What the model is given holds data and noise in the proportion that its timestep stands for."""
    worst = 0.0
    for course in _courses(subject):
        for i, timestep in enumerate(course.plan.timesteps):
            mixture = _mixture(course, i)
            flow = isinstance(course.schedule, RectifiedFlow)
            size = mixture.signal + mixture.noise if flow else math.hypot(mixture.signal, mixture.noise)
            rule = "data and noise shares add up to" if flow else "the input's standard deviation is"
            expect(abs(size - 1) < 1e-4, f"{course}: at step {i} {rule} {size:.6g}, not 1")
            low, high = _wanted_noise(course.schedule, timestep)
            ratio = mixture.noise / mixture.signal if abs(mixture.signal) > 1e-9 else math.inf
            if math.isinf(low) or math.isinf(ratio):
                expect(math.isinf(high), f"{course}: step {i} has noise ratio {ratio:.4g}, not {high:.4g}")
                both = math.isinf(low) == math.isinf(ratio)
                expect(both, f"{course}: step {i} has noise ratio {ratio:.4g}, not {low:.4g}")
                continue
            fits = low * (1 - 1e-4) <= ratio <= high * (1 + 1e-4)
            found = f"step {i} tells t={timestep:.6g} with noise ratio {ratio:.4g}"
            expect(fits, f"{course}: {found}, not {low:.4g} to {high:.4g}")
            worst = max(worst, ratio)
    return f"noise up to {worst:.3g} times the data"


@SAMPLER.clause
def clean_estimate(subject: Subject) -> str:
    """From a perfect prediction, `clean` gives back the data that `renoise` was given, at every step."""
    worst = 0.0
    clean, noise = _normal("clean"), _normal("noise")
    for course in _courses(subject):
        for i in range(course.plan.num_steps):
            state = course.sampler.renoise(course.plan, i, clean, noise)
            given = course.sampler.model_input(course.plan, i, state)
            perfect = Prediction(_perfect(course, i, given, clean))
            estimate = course.sampler.clean(course.plan, i, state, perfect)
            off = relative(estimate, clean)
            expect(off < 1e-5, f"{course}: at step {i} the estimate is off by {off:.2g} of the largest value")
            worst = max(worst, off)
    return f"to {worst:.1g}"


@SAMPLER.clause
def arrival(subject: Subject) -> str:
    """With a perfect model the rollout ends at the data."""
    worst = 0.0
    clean = _normal("clean")
    for course in _courses(subject, (4, 20)):

        def predict(i: int, given: Tensor, course: Course = course) -> Tensor:
            return _perfect(course, i, given, clean)

        final = _rollout(course, predict, _normal("start"))
        off = float((final - clean).square().mean().sqrt())
        expect(off < ARRIVAL, f"{course}: the rollout ends {off:.3g} away from the data (root mean square)")
        worst = max(worst, off)
    return f"at most {worst:.2g} away (root mean square)"


@SAMPLER.clause
def fresh_noise(subject: Subject) -> str:
    """A step draws nothing itself: it uses the noise it is given where it says that it needs some."""
    used = 0
    for course in _courses(subject, (4,)):
        state = course.sampler.start(course.plan, _normal("start"))
        for i in range(course.plan.num_steps):
            prediction = Prediction(_invented(i, state.latents))
            if course.sampler.needs_noise(course.plan, i, _CONDITIONING):
                used += 1
                one = course.sampler.step(course.plan, i, state, prediction, _normal("one"))
                two = course.sampler.step(course.plan, i, state, prediction, _normal("two"))
                expect(not torch.equal(one.latents, two.latents), f"{course}: step {i} ignores its noise")
            state = _step(course, i, state, _invented)
    return f"{used} steps with fresh noise" if used else "deterministic"


@SAMPLER.clause
def differentiable(subject: Subject) -> str:
    """The gradient flows through every step and through `clean`, to prediction and earlier state."""
    for course in _courses(subject, (4,)):
        sampler, made = course.sampler, course.plan
        state = sampler.start(made, _normal("start"))
        for i in range(made.num_steps):
            fresh = _normal("fresh") if sampler.needs_noise(made, i, _CONDITIONING) else None
            latents = state.latents.clone().requires_grad_(True)
            prediction = _invented(i, latents.detach()).requires_grad_(True)
            for name, out in (
                ("step", sampler.step(made, i, state.at(latents), Prediction(prediction), fresh).latents),
                ("clean", sampler.clean(made, i, state.at(latents), Prediction(prediction))),
            ):
                expect(out.requires_grad, f"{course}: {name} {i} cuts the graph")
                gradients = torch.autograd.grad(out.square().sum(), (prediction, latents), allow_unused=True)
                _expect_gradient(gradients[0], f"{course}: {name} {i}, at the prediction")
                if not (name == "step" and i == made.num_steps - 1):
                    _expect_gradient(gradients[1], f"{course}: {name} {i}, at the state")
            state = _step(course, i, state, _invented)
    return "through step and clean"


def _expect_gradient(gradient: Tensor | None, what: str) -> None:
    if gradient is None:
        expect(False, f"{what}: no gradient")
        return
    expect(bool(torch.isfinite(gradient).all()), f"{what}: the gradient is not finite")
    expect(bool(gradient.any()), f"{what}: the gradient is zero")


@SAMPLER.clause
def batch_independence(subject: Subject) -> str:
    """A sample's latents do not depend on the other samples of its batch."""
    worst = 0.0
    for course in _courses(subject, (4,)):
        sampler, noise = course.sampler, _normal("start")
        whole = _rollout(course, _invented, noise)
        state = sampler.start(course.plan, noise[1:])
        for i in range(course.plan.num_steps):
            fresh = None
            if sampler.needs_noise(course.plan, i, _CONDITIONING):
                fresh = _normal(f"fresh {i}")[1:]
            alone = _CONDITIONING[1:2]
            state = sampler.before_step(course.plan, i, state, alone, fresh)
            prediction = Prediction(_invented(i, sampler.model_input(course.plan, i, state)))
            state = sampler.step(course.plan, i, state, prediction, fresh)
            state = sampler.after_step(course.plan, i, state, alone, fresh)
        off = relative(state.latents, whole[1:])
        expect(off < 1e-9, f"{course}: sample 1 alone differs by {off:.2g}")
        worst = max(worst, off)
    return f"alone or together: {worst:.1g}"
