"""DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2), midpoint form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.builtin.samplers.marginal import clean_weights, marginals, weighted
from vader_core.builtin.samplers.options import DPMSolverOptions
from vader_core.builtin.samplers.spacing import spaced_timesteps
from vader_core.errors import VaderError
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VariancePreserving

if TYPE_CHECKING:
    from vader_core.geometry import Geometry


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ over a discrete variance preserving schedule.

    The first and the last step are of first order; the last ends without noise, so it returns the clean
    estimate itself. A path that :meth:`renoise` starts has no history and takes its first step at
    first order too.

    Args:
        options: See ``vader show sampler dpmpp``.
    """

    options: DPMSolverOptions = field(default_factory=DPMSolverOptions)
    schedules = (VariancePreserving,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Timesteps and the weights of every update."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, VariancePreserving)
        options = self.options
        total = schedule.num_train_timesteps
        timesteps = spaced_timesteps(
            options.timestep_spacing,
            total,
            num_steps,
            offset=options.steps_offset,
            extra=0 if options.timestep_spacing == "trailing" else 1,
        )
        alphas, sigmas = marginals(schedule)
        points = [(alphas[int(t)], sigmas[int(t)]) for t in timesteps] + [(1.0, 0.0)]
        if points[0][0] == 0.0:
            raise VaderError(
                "sampler 'dpmpp' cannot start at a timestep without any signal: use --sampler ddim"
            )
        weights = [clean_weights(alpha, sigma, schedule.prediction_type) for alpha, sigma in points[:-1]]
        tables = {
            "alpha": tuple(alpha for alpha, _ in points),
            "sigma": tuple(sigma for _, sigma in points),
            "clean_latents": tuple(weight for weight, _ in weights),
            "clean_prediction": tuple(weight for _, weight in weights),
            **_update_tables(points, options.order),
        }
        return Plan(tuple(timesteps), tables, schedule.prediction_type)

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """One update, of second order where there is a previous estimate and the plan asks for it."""
        tables = plan.tables
        clean = self.clean(plan, i, state, prediction)
        latents = weighted(tables["latents"][i], state.latents, tables["first_order"][i], clean)
        if state.history and tables["correction"][i] != 0.0:
            latents = latents + tables["correction"][i] * (clean - state.history[-1])
        return State(latents, (clean,), state.extra)

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The estimate of the clean latents before step ``i``."""
        tables = plan.tables
        return weighted(
            tables["clean_latents"][i], state.latents, tables["clean_prediction"][i], prediction.value
        )

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """``clean`` with the noise of timestep ``i``, and no history."""
        return State(weighted(plan.tables["alpha"][i], clean, plan.tables["sigma"][i], noise))


def _update_tables(points: list[tuple[float, float]], order: int) -> dict[str, tuple[float, ...]]:
    """x_next = latents x + first_order x_0 + correction (x_0 - the previous x_0), one entry per step."""
    latents, first_order, correction = [], [], []
    levels = [math.log(alpha / sigma) if sigma > 0.0 else math.inf for alpha, sigma in points]
    last = len(points) - 2
    for i in range(last + 1):
        alpha, sigma = points[i + 1]
        h = levels[i + 1] - levels[i]
        grown = -alpha * math.expm1(-h)
        latents.append(sigma / points[i][1])
        first_order.append(grown)
        second = order == 2 and 0 < i < last
        correction.append(0.5 * grown * h / (levels[i] - levels[i - 1]) if second else 0.0)
    return {"latents": tuple(latents), "first_order": tuple(first_order), "correction": tuple(correction)}
