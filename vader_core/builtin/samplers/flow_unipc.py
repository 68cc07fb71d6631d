"""UniPC (Zhao et al. 2023, arXiv 2302.04867) along a rectified flow: B2(h) on x_0, with its corrector."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.builtin.samplers.flow_times import require_velocity, unipc_taus
from vader_core.builtin.samplers.marginal import weighted
from vader_core.builtin.samplers.options import FlowUniPCOptions
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import RectifiedFlow, Schedule

if TYPE_CHECKING:
    from vader_core.geometry import Geometry

#: Names of an update's weights: of the corrected state, of an estimate of x_0, and of what later or earlier
#: estimates differ from it by. Differences, because two large weights of opposite signs would lose digits.
_PREDICTOR = ("from_state", "from_clean", "from_older")
_CORRECTOR = ("to_state", "to_last", "to_here", "to_older")


@dataclass(frozen=True)
class FlowUniPC(Sampler):
    """A predictor and a corrector of second order, at the times of diffusers' ``UniPCMultistepScheduler``.

    The model sees the predicted state. Its estimate of x_0 there first corrects that state and then, with
    the estimate before it, predicts the next. The first step, the last, and the first after :meth:`renoise`
    are of first order; the last ends without noise, so it returns the estimate itself.

    A state's history holds the last corrected state, then the estimates of x_0, newest last.

    Args:
        options: See ``vader show sampler flow_unipc``.
    """

    options: FlowUniPCOptions = field(default_factory=FlowUniPCOptions)
    schedules = (RectifiedFlow,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Whole timesteps, noise levels, and the weights of every update of first and of second order."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, RectifiedFlow)
        require_velocity(schedule)
        shift = schedule.shift if self.options.shift is None else self.options.shift
        taus, timesteps = unipc_taus(schedule, num_steps, shift=shift, terminal=schedule.terminal)
        points = [*taus, 0.0]
        last = num_steps - 1
        orders = [float(min(self.options.order, num_steps - i, i + 1)) for i in range(num_steps)]
        tables: dict[str, tuple[float, ...]] = {
            "tau": tuple(points),
            "to_data": tuple(-float(schedule.velocity_sign) * tau for tau in taus),
            "order": tuple(orders),
        }
        for order in (1, 2):
            rows = [_predictor(points, i, order if 0 < i < last else 1) for i in range(num_steps)]
            tables |= _columns(_PREDICTOR, rows, order)
            rows = [_corrector(points, i, order if i > 1 else 1) for i in range(num_steps)]
            tables |= _columns(_CORRECTOR, rows, order)
        return Plan(tuple(timesteps), tables, schedule.prediction_type)

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """Correct the state with the model's estimate, then predict the next one."""
        clean = self.clean(plan, i, state, prediction)
        corrected = state.latents
        earlier = state.history[1:]
        if state.history:
            order = min(int(plan.tables["order"][i - 1]), len(earlier))
            corrected = _sum(plan, _CORRECTOR, order, i, (state.history[0], *_apart(clean, earlier)))
        order = min(int(plan.tables["order"][i]), len(earlier) + 1)
        behind = [estimate - clean for estimate in earlier[-1:]]
        latents = _sum(plan, _PREDICTOR, order, i, (corrected, clean, *behind))
        return State(latents, (corrected, *earlier[-1:], clean), state.extra)

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """Follow the velocity from the predicted state to tau = 0."""
        return weighted(1.0, state.latents, plan.tables["to_data"][i], prediction.value)

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """The point at tau_i on the straight path from ``clean`` to ``noise``, and no history."""
        tau = plan.tables["tau"][i]
        return State(weighted(1.0 - tau, clean, tau, noise))


def _columns(
    names: tuple[str, ...], rows: list[tuple[float, ...]], order: int
) -> dict[str, tuple[float, ...]]:
    return {f"{name}_{order}": column for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _apart(clean: Tensor, earlier: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last estimate, and how far this one and the one before it are from it."""
    last = earlier[-1]
    return last, clean - last, *(older - last for older in earlier[:-1])


def _sum(plan: Plan, names: tuple[str, ...], order: int, i: int, given: tuple[Tensor, ...]) -> Tensor:
    """The weighted sum of what is given; weights of zero are left out."""
    weights = [plan.tables[f"{name}_{order}"][i] for name in names]
    total = weights[0] * given[0]
    for weight, tensor in zip(weights[1:], given[1:], strict=False):
        if weight:
            total = total + weight * tensor
    return total


def _level(tau: float) -> float:
    """Half the logarithm of the signal-to-noise ratio, up to which time is measured."""
    return math.log1p(-tau) - math.log(tau) if tau > 0.0 else math.inf


def _predictor(points: list[float], i: int, order: int) -> tuple[float, ...]:
    """Weights of the state, of x_0, and of how far the x_0 before it is from it, in the next state."""
    tau, before = points[i + 1], points[i]
    h = _level(tau) - _level(before)
    grown = -(1.0 - tau) * math.expm1(-h)
    if order == 1:
        return tau / before, grown, 0.0
    # half the slope from the estimate before
    ratio = (_level(points[i - 1]) - _level(before)) / h
    return tau / before, grown, 0.5 * grown / ratio


def _corrector(points: list[float], i: int, order: int) -> tuple[float, ...]:
    """Weights of the last corrected state, of the last x_0, and of how far this and the one before are."""
    if i == 0:
        return (0.0,) * 4
    tau, before = points[i], points[i - 1]
    h = _level(tau) - _level(before)
    grown = -(1.0 - tau) * math.expm1(-h)
    if order == 1:
        return tau / before, grown, 0.5 * grown, 0.0
    # the two conditions of second order, at the earlier and at this estimate: rho_1 + rho_2 = b_1 and
    # ratio rho_1 + rho_2 = b_2, with b_k = k! phi_{k + 1}(-h) / phi_1(-h)
    ratio = (_level(points[i - 2]) - _level(before)) / h
    first = math.expm1(-h)
    second = first / -h - 1.0
    third = second / -h - 0.5
    right = second / first, 2.0 * third / first
    rho_older = (right[1] - right[0]) / (ratio - 1.0)
    rho_here = right[0] - rho_older
    return tau / before, grown, grown * rho_here, grown * rho_older / ratio
