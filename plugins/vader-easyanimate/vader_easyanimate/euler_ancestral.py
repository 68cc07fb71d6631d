"""Euler's method with fresh noise after every step ("Euler A"; Karras et al. 2022's ODE, ancestral steps)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VariancePreserving
from vader_easyanimate.levels import levels_of

if TYPE_CHECKING:
    from vader_core.conditioning import Conditioning
    from vader_core.geometry import Geometry


@dataclass(frozen=True)
class EulerAncestral(Sampler):
    """Steps in the variance exploding form x = data + sigma · noise, over S evenly spaced timesteps.

    Each step goes below the next level and noise brings it back up; the last one ends without noise. The
    model is given x / sqrt(sigma² + 1).
    """

    schedules = (VariancePreserving,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Noise levels, linear between the trained timesteps, and how far below the next each step goes."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, VariancePreserving)
        levels = levels_of(schedule, "euler_ancestral")
        if num_steps > len(levels):
            raise VaderError(
                f"--num-steps {num_steps} is not allowed: the schedule has {len(levels)} timesteps"
            )
        trained = np.array([level.sigma / level.alpha for level in levels])
        timesteps = np.linspace(0, len(levels) - 1, num_steps, dtype=np.float32)[::-1].astype(np.float64)
        sigmas = [*np.interp(timesteps, np.arange(len(levels)), trained).tolist(), 0.0]
        pairs = list(pairwise(sigmas))
        up = [math.sqrt(b**2 * max(a**2 - b**2, 0.0) / a**2) for a, b in pairs]
        down = [math.sqrt(max(b**2 - raised**2, 0.0)) for (_, b), raised in zip(pairs, up, strict=True)]
        tables = {"sigma": tuple(sigmas[:-1]), "down": tuple(down), "up": tuple(up)}
        return Plan(tuple(timesteps.tolist()), tables, schedule.prediction_type)

    def start(self, plan: Plan, noise: Tensor) -> State:
        """``noise`` at the first level."""
        return State(noise * plan.tables["sigma"][0])

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """In every step but the last."""
        return plan.tables["up"][i] > 0.0

    def model_input(self, plan: Plan, i: int, state: State) -> Tensor:
        """The latents in the variance preserving form."""
        return state.latents / math.sqrt(plan.tables["sigma"][i] ** 2 + 1.0)

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """Down to below the next level, and up again by ``noise``."""
        latents, deviation = self.transition(plan, i, state, prediction)
        if noise is not None and deviation > 0.0:
            latents = latents + deviation * noise
        return state.at(latents)

    def transition(self, plan: Plan, i: int, state: State, prediction: Prediction) -> tuple[Tensor, float]:
        """A Gaussian around the point below the next level."""
        kept = plan.tables["down"][i] / plan.tables["sigma"][i]
        clean = self.clean(plan, i, state, prediction)
        mean = clean if kept == 0.0 else kept * state.latents + (1.0 - kept) * clean
        return mean, plan.tables["up"][i]

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The estimate of the clean latents before step ``i``."""
        sigma = plan.tables["sigma"][i]
        if plan.prediction_type == "epsilon":
            return state.latents - sigma * prediction.value
        unit = sigma**2 + 1.0
        return state.latents / unit - sigma / math.sqrt(unit) * prediction.value

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """``clean`` with noise of level ``i``."""
        return State(clean + plan.tables["sigma"][i] * noise)
