"""Euler's method on the noise level (Karras et al. 2022, algorithm 2 without its correction)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from vader_core.builtin.samplers.marginal import marginals, weighted
from vader_core.builtin.samplers.options import EulerOptions
from vader_core.builtin.samplers.spacing import spaced_timesteps
from vader_core.errors import VaderError
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VarianceExploding, VariancePreserving

if TYPE_CHECKING:
    from vader_core.conditioning import Conditioning
    from vader_core.geometry import Geometry


@dataclass(frozen=True)
class _Level:
    """One point of the path: what the model is told, the noise level, and the scale of the model's input."""

    timestep: float
    sigma: float
    scale: float


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler steps in the variance exploding form x = x_0 + sigma noise, down to no noise at all.

    A variance preserving schedule is followed through sigma = sqrt((1 - a) / a): the state is held in the
    exploding form and the model's input scaled back. The first state is sqrt(sigma^2 + 1) noise, as if the
    clean latents had unit variance.

    Args:
        options: See ``vader show sampler euler``.
    """

    options: EulerOptions = field(default_factory=EulerOptions)
    schedules = (VarianceExploding, VariancePreserving)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Noise levels and the weights of every update."""
        self.require(schedule, num_steps)
        if schedule.prediction_type not in ("epsilon", "v"):
            raise VaderError(
                f"prediction type {schedule.prediction_type!r} does not belong to a noise level: "
                "use epsilon or v"
            )
        curve: _KarrasCurve | _DiscreteCurve
        if isinstance(schedule, VarianceExploding):
            curve = _KarrasCurve(schedule, self.options)
        else:
            assert isinstance(schedule, VariancePreserving)
            curve = _DiscreteCurve(schedule, self.options)
        levels = curve.levels(num_steps)
        churned = [curve.at(self._raised(level.sigma, num_steps, curve.largest), level) for level in levels]
        following = [level.sigma for level in levels[1:]] + [0.0]
        tables = {
            "sigma": tuple(level.sigma for level in levels),
            "churned": tuple(level.sigma for level in churned),
            "following": tuple(following),
            "scale": tuple(level.scale for level in levels),
            "input": tuple(level.scale for level in churned),
        }
        return Plan(tuple(level.timestep for level in churned), tables, schedule.prediction_type)

    def _raised(self, sigma: float, num_steps: int, largest: float) -> float:
        # Karras et al. bound one rise by sqrt(2) - 1; the model was not trained beyond the largest level
        rise = min(self.options.churn / num_steps, math.sqrt(2.0) - 1.0)
        return min(sigma * (1.0 + rise), largest)

    def start(self, plan: Plan, noise: Tensor) -> State:
        """``noise`` at the first level."""
        return State(noise / plan.tables["scale"][0])

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """Where churn raises the noise level."""
        return plan.tables["churned"][i] > plan.tables["sigma"][i]

    def before_step(
        self, plan: Plan, i: int, state: State, conditioning: Conditioning, noise: Tensor | None
    ) -> State:
        """Raise the noise level by the churn."""
        sigma, churned = plan.tables["sigma"][i], plan.tables["churned"][i]
        if noise is None or churned == sigma:
            return state
        return state.at(state.latents + math.sqrt(churned**2 - sigma**2) * noise)

    def model_input(self, plan: Plan, i: int, state: State) -> Tensor:
        """The latents in the variance preserving form."""
        return state.latents * plan.tables["input"][i]

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """Move towards the clean estimate, by the share of the noise that goes."""
        kept = plan.tables["following"][i] / plan.tables["churned"][i]
        clean = self.clean(plan, i, state, prediction)
        return state.at(clean if kept == 0.0 else weighted(kept, state.latents, 1.0 - kept, clean))

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The estimate of the clean latents before step ``i``."""
        sigma = plan.tables["churned"][i]
        if plan.prediction_type == "epsilon":
            return weighted(1.0, state.latents, -sigma, prediction.value)
        unit = sigma**2 + 1.0
        return weighted(1.0 / unit, state.latents, -sigma / math.sqrt(unit), prediction.value)

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """``clean`` with noise of level ``i``."""
        return State(weighted(1.0, clean, plan.tables["sigma"][i], noise))


class _KarrasCurve:
    """Karras et al. 2022, eq. 5, between the schedule's two levels."""

    def __init__(self, schedule: VarianceExploding, options: EulerOptions) -> None:
        for name in ("timestep_spacing", "steps_offset"):
            if getattr(options, name) is not None:
                raise VaderError(
                    f"sampler 'euler': {name} does not apply to this backbone, whose noise levels follow "
                    "Karras et al.: leave it out"
                )
        self.schedule = schedule
        self.largest = schedule.sigma_max

    def levels(self, num_steps: int) -> list[_Level]:
        root = 1.0 / self.schedule.rho
        high, low = self.schedule.sigma_max**root, self.schedule.sigma_min**root
        positions = [i / (num_steps - 1) if num_steps > 1 else 0.0 for i in range(num_steps)]
        return [
            _karras_level((high + position * (low - high)) ** self.schedule.rho) for position in positions
        ]

    def at(self, sigma: float, level: _Level) -> _Level:
        return level if sigma == level.sigma else _karras_level(sigma)


def _karras_level(sigma: float) -> _Level:
    return _Level(0.25 * math.log(sigma), sigma, 1.0 / math.sqrt(sigma**2 + 1.0))


class _DiscreteCurve:
    """The noise levels of a variance preserving schedule, linear between its timesteps."""

    def __init__(self, schedule: VariancePreserving, options: EulerOptions) -> None:
        self.spacing = options.timestep_spacing or "leading"
        if self.spacing != "leading" and options.steps_offset is not None:
            raise VaderError(
                f"sampler 'euler': steps_offset applies to `leading` spacing only, not to {self.spacing!r}"
            )
        self.offset = 1 if options.steps_offset is None else options.steps_offset
        alphas, sigmas = (np.array(values) for values in marginals(schedule))
        if alphas.min() == 0.0:
            raise VaderError(
                "sampler 'euler' cannot follow a schedule with a timestep without any signal: "
                "use --sampler ddim"
            )
        extra = schedule.scale
        self.extra = np.ones(len(alphas)) if extra is None else extra[: len(alphas)].double().cpu().numpy()
        self.sigmas = sigmas / alphas
        self.grid = np.arange(len(alphas))
        self.largest = float(self.sigmas[-1])

    def levels(self, num_steps: int) -> list[_Level]:
        timesteps = spaced_timesteps(self.spacing, len(self.grid), num_steps, offset=self.offset, whole=False)
        return [self._level(t, float(np.interp(t, self.grid, self.sigmas))) for t in timesteps]

    def at(self, sigma: float, level: _Level) -> _Level:
        if sigma == level.sigma:
            return level
        return self._level(float(np.interp(sigma, self.sigmas, self.grid)), sigma)

    def _level(self, timestep: float, sigma: float) -> _Level:
        # alpha = s sqrt(a) and sigma = sqrt((1 - a) / a) / s, solved for alpha
        extra = float(np.interp(timestep, self.grid, self.extra))
        return _Level(timestep, sigma, extra / math.sqrt(1.0 + (extra * sigma) ** 2))
