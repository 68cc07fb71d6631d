"""Euler steps along a rectified flow (Liu et al. 2022) at even times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.builtin.samplers.flow_euler import euler_plan
from vader_core.builtin.samplers.flow_times import euler_taus, require_velocity
from vader_core.builtin.samplers.marginal import weighted
from vader_core.builtin.samplers.options import RectifiedFlowOptions
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import RectifiedFlow, Schedule

if TYPE_CHECKING:
    from vader_core.geometry import Geometry


@dataclass(frozen=True)
class RectifiedFlowEuler(Sampler):
    """S Euler steps from tau = 1 to tau = 0, at tau_i = 1 - i / S before the time shift.

    The simplest case of ``flow_euler``: of the schedule it takes the shift alone.

    Args:
        options: See ``vader show sampler rectified_flow``.
    """

    options: RectifiedFlowOptions = field(default_factory=RectifiedFlowOptions)
    schedules = (RectifiedFlow,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Times, and the signed length of every step."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, RectifiedFlow)
        require_velocity(schedule)
        shift = schedule.shift if self.options.shift is None else self.options.shift
        return euler_plan(
            schedule, euler_taus(schedule, num_steps, spacing="even", shift=shift, terminal=None)
        )

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """Follow the velocity to the next time."""
        return state.at(weighted(1.0, state.latents, plan.tables["length"][i], prediction.value))

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """Follow the velocity to tau = 0."""
        return weighted(1.0, state.latents, plan.tables["to_clean"][i], prediction.value)

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """The point at tau_i on the straight path from ``clean`` to ``noise``."""
        tau = plan.tables["tau"][i]
        return State(weighted(1.0 - tau, clean, tau, noise))
