"""Consistency sampling (Luo et al. 2023, arXiv 2310.04378): to the data at every step, back with noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.builtin.samplers.marginal import clean_weights, marginals, weighted
from vader_core.builtin.samplers.options import LCMOptions
from vader_core.errors import VaderError
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VariancePreserving

if TYPE_CHECKING:
    from vader_core.conditioning import Conditioning
    from vader_core.geometry import Geometry

#: Deviation of the data that the boundary condition assumes; LCM's and T2V-Turbo's.
SIGMA_DATA = 0.5
#: The boundary condition's time is the timestep times this.
TIME_SCALE = 10.0


@dataclass(frozen=True)
class LCM(Sampler):
    """For students that were distilled to a few steps, such as T2V-Turbo.

    A step at t takes f = c_skip x + c_out x_0, with c_skip = s^2 / (u^2 + s^2), c_out = u / sqrt(u^2 + s^2),
    u = 10 t and s = 0.5, and mixes f with fresh noise at the next timestep. The last step ends at f. The
    timesteps are every so many-th of a grid from the last trained one down. A schedule's extra scale of x_0
    is left out, as T2V-Turbo leaves out VideoCrafter2's.

    Args:
        options: See ``vader show sampler lcm``.
    """

    options: LCMOptions = field(default_factory=LCMOptions)
    schedules = (VariancePreserving,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Timesteps from the grid, and the weights of every step."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, VariancePreserving)
        grid, trained = self.options.grid, schedule.num_train_timesteps
        if not num_steps <= grid <= trained:
            raise VaderError(
                f"sampler 'lcm': {num_steps} steps from a grid of {grid} timesteps of {trained}: choose "
                f"--num-steps up to sampler.grid, and a grid up to {trained}"
            )
        stride = trained // grid
        timesteps = [stride * (grid - i * (grid // num_steps)) - 1 for i in range(num_steps)]
        plain = VariancePreserving(schedule.alphas_cumprod, schedule.prediction_type)
        alphas, sigmas = marginals(plain)
        rows = []
        for here, following in zip(timesteps, (*timesteps[1:], None), strict=True):
            latents, prediction = clean_weights(alphas[here], sigmas[here], schedule.prediction_type)
            time = TIME_SCALE * here
            unit = time**2 + SIGMA_DATA**2
            c_skip, c_out = SIGMA_DATA**2 / unit, time / unit**0.5
            to = (1.0, 0.0) if following is None else (alphas[following], sigmas[following])
            clean = (c_skip + c_out * latents, c_out * prediction)
            rows.append((alphas[here], sigmas[here], *clean, *to))
        names = ("alpha", "sigma", "clean_latents", "clean_prediction", "alpha_to", "sigma_to")
        tables = {name: tuple(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
        return Plan(tuple(float(timestep) for timestep in timesteps), tables, schedule.prediction_type)

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """At every step but the last."""
        return plan.tables["sigma_to"][i] > 0.0

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """To the data, and back to the next timestep with fresh noise."""
        clean, sigma = self.clean(plan, i, state, prediction), plan.tables["sigma_to"][i]
        if noise is None or sigma == 0.0:
            return state.at(plan.tables["alpha_to"][i] * clean)
        return state.at(weighted(plan.tables["alpha_to"][i], clean, sigma, noise))

    def transition(self, plan: Plan, i: int, state: State, prediction: Prediction) -> tuple[Tensor, float]:
        """A Gaussian around the scaled clean estimate."""
        clean = self.clean(plan, i, state, prediction)
        return plan.tables["alpha_to"][i] * clean, plan.tables["sigma_to"][i]

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The student's estimate of the clean latents, with its boundary condition."""
        tables = plan.tables
        return weighted(
            tables["clean_latents"][i], state.latents, tables["clean_prediction"][i], prediction.value
        )

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """``clean`` with the noise of step ``i``'s timestep."""
        return State(weighted(plan.tables["alpha"][i], clean, plan.tables["sigma"][i], noise))
