"""Euler steps along a rectified flow (Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.builtin.samplers.marginal import weighted
from vader_core.builtin.samplers.options import RectifiedFlowOptions
from vader_core.errors import VaderError
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import RectifiedFlow, Schedule

if TYPE_CHECKING:
    from vader_core.geometry import Geometry


@dataclass(frozen=True)
class RectifiedFlowEuler(Sampler):
    """S Euler steps from tau = 1 to tau = 0, at tau_i = 1 - i / S before the time shift.

    Args:
        options: See ``vader show sampler rectified_flow``.
    """

    options: RectifiedFlowOptions = field(default_factory=RectifiedFlowOptions)
    schedules = (RectifiedFlow,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Times, and the signed length of every step."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, RectifiedFlow)
        if schedule.prediction_type != "velocity":
            raise VaderError(
                f"prediction type {schedule.prediction_type!r} does not belong to a rectified flow: "
                "use velocity"
            )
        shift = schedule.shift if self.options.shift is None else self.options.shift
        even = [1.0 - i / num_steps for i in range(num_steps)] + [0.0]
        taus = tuple(shift * tau / (1.0 + (shift - 1.0) * tau) for tau in even)
        sign = float(schedule.velocity_sign)
        tables = {
            "tau": taus,
            "length": tuple(sign * (taus[i + 1] - taus[i]) for i in range(num_steps)),
            "to_clean": tuple(-sign * tau for tau in taus[:-1]),
        }
        timesteps = tuple(tau * schedule.num_train_timesteps for tau in taus[:-1])
        return Plan(timesteps, tables, schedule.prediction_type)

    def step(self, plan: Plan, i: int, state: State, prediction: Tensor, noise: Tensor | None) -> State:
        """Follow the velocity to the next time."""
        return state.at(weighted(1.0, state.latents, plan.tables["length"][i], prediction))

    def clean(self, plan: Plan, i: int, state: State, prediction: Tensor) -> Tensor:
        """Follow the velocity to tau = 0."""
        return weighted(1.0, state.latents, plan.tables["to_clean"][i], prediction)

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """The point at tau_i on the straight path from ``clean`` to ``noise``."""
        tau = plan.tables["tau"][i]
        return State(weighted(1.0 - tau, clean, tau, noise))
