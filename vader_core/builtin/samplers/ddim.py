"""DDIM (Song et al. 2020, eq. 12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.builtin.samplers.marginal import clean_weights, marginals, weighted
from vader_core.builtin.samplers.options import DDIMOptions
from vader_core.builtin.samplers.spacing import spaced_timesteps
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VariancePreserving

if TYPE_CHECKING:
    from vader_core.conditioning import Conditioning
    from vader_core.geometry import Geometry


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM over a discrete variance preserving schedule.

    A step at timestep t ends at the noise of t - N // S, whatever the spacing; with ``leading`` spacing
    that is the next timestep. Every update is one weighted sum of latents, prediction and noise.

    Args:
        options: See ``vader show sampler ddim``.
    """

    options: DDIMOptions = field(default_factory=DDIMOptions)
    schedules = (VariancePreserving,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Timesteps and the weights of every update."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, VariancePreserving)
        options = self.options
        timesteps = spaced_timesteps(
            options.timestep_spacing, schedule.num_train_timesteps, num_steps, offset=options.steps_offset
        )
        alphas, sigmas = marginals(schedule)
        final = (1.0, 0.0) if options.set_alpha_to_one else (alphas[0], sigmas[0])
        stride = schedule.num_train_timesteps // num_steps
        rows = []
        for timestep in timesteps:
            here, before = int(timestep), int(timestep) - stride
            target = (alphas[before], sigmas[before]) if before >= 0 else final
            rows.append(self._row((alphas[here], sigmas[here]), target, schedule.prediction_type))
        columns = zip(*rows, strict=True)
        names = ("alpha", "sigma", "clean_latents", "clean_prediction", "latents", "prediction", "noise")
        tables = {name: tuple(column) for name, column in zip(names, columns, strict=True)}
        return Plan(tuple(timesteps), tables, schedule.prediction_type)

    def _row(
        self, here: tuple[float, float], target: tuple[float, float], prediction_type: str
    ) -> tuple[float, ...]:
        (alpha, sigma), (alpha_to, sigma_to) = here, target
        # the signal ratio without the extra scale: sigma alone fixes it
        kept = max(1.0 - (1.0 - sigma**2) / (1.0 - sigma_to**2), 0.0) if sigma_to < 1.0 else 0.0
        noise = self.options.eta * sigma_to / sigma * kept**0.5 if self.options.eta else 0.0
        direction = max(sigma_to**2 - noise**2, 0.0) ** 0.5
        clean_latents, clean_prediction = clean_weights(alpha, sigma, prediction_type)
        # x_to = alpha_to x_0 + direction epsilon + noise; epsilon is the prediction, or sigma x + alpha v
        epsilon_latents, epsilon_prediction = (0.0, 1.0) if prediction_type == "epsilon" else (sigma, alpha)
        latents = alpha_to * clean_latents + direction * epsilon_latents
        prediction = alpha_to * clean_prediction + direction * epsilon_prediction
        return alpha, sigma, clean_latents, clean_prediction, latents, prediction, noise

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """Where eta is above 0 and the step does not end without noise."""
        return plan.tables["noise"][i] > 0.0

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """One DDIM update."""
        latents, deviation = self._moments(plan, i, state, prediction)
        if noise is not None and deviation > 0.0:
            latents = latents + deviation * noise
        return state.at(latents)

    def transition(self, plan: Plan, i: int, state: State, prediction: Prediction) -> tuple[Tensor, float]:
        """Where eta is above 0, a Gaussian around the deterministic part."""
        if self.options.eta == 0.0:
            return super().transition(plan, i, state, prediction)
        return self._moments(plan, i, state, prediction)

    def _moments(self, plan: Plan, i: int, state: State, prediction: Prediction) -> tuple[Tensor, float]:
        tables = plan.tables
        mean = weighted(tables["latents"][i], state.latents, tables["prediction"][i], prediction.value)
        return mean, tables["noise"][i]

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The estimate of the clean latents before step ``i``."""
        tables = plan.tables
        return weighted(
            tables["clean_latents"][i], state.latents, tables["clean_prediction"][i], prediction.value
        )

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """``clean`` with the noise of timestep ``i``."""
        return State(weighted(plan.tables["alpha"][i], clean, plan.tables["sigma"][i], noise))
