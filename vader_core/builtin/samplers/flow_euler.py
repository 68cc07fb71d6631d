"""Euler steps along a rectified flow at the times of diffusers' ``FlowMatchEulerDiscreteScheduler``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.builtin.samplers.flow_times import (
    euler_taus,
    require_velocity,
    shifted,
    single,
    stretched,
)
from vader_core.builtin.samplers.marginal import weighted
from vader_core.builtin.samplers.options import FlowEulerOptions
from vader_core.errors import VaderError
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import RectifiedFlow, Schedule

if TYPE_CHECKING:
    from vader_core.conditioning import Conditioning
    from vader_core.geometry import Geometry


def euler_plan(schedule: RectifiedFlow, taus: Sequence[float], *, fresh: bool = False) -> Plan:
    """The plan of Euler steps through ``taus`` and on to 0.

    Args:
        schedule: Gives the model's unit of time and the velocity's sign.
        taus: S noise levels, falling.
        fresh: Whether every step but the last ends in fresh noise.
    """
    sign = float(schedule.velocity_sign)
    points = (*taus, 0.0)
    tables = {
        "tau": points,
        "length": tuple(sign * (after - before) for before, after in pairwise(points)),
        "to_clean": tuple(-sign * tau for tau in taus),
        "fresh": tuple(after if fresh else 0.0 for after in points[1:]),
    }
    return Plan(tuple(tau * schedule.num_train_timesteps for tau in taus), tables, schedule.prediction_type)


@dataclass(frozen=True)
class FlowEuler(Sampler):
    """S Euler steps from the noise to tau = 0.

    Where the times lie is the backbone's to say: its schedule has a shift, a spacing and perhaps a last noise
    level. The options replace them one by one.

    Args:
        options: See ``vader show sampler flow_euler``.
    """

    options: FlowEulerOptions = field(default_factory=FlowEulerOptions)
    schedules = (RectifiedFlow,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Times, and the signed length of every step."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, RectifiedFlow)
        require_velocity(schedule)
        options = self.options
        shift = schedule.shift if options.shift is None else options.shift
        terminal = schedule.terminal if options.terminal is None else options.terminal
        spacing = options.spacing or schedule.spacing
        if options.sigmas is None:
            taus = euler_taus(schedule, num_steps, spacing=spacing, shift=shift, terminal=terminal)
        else:
            taus = self._given(num_steps, shift, terminal)
        plan = euler_plan(schedule, single(taus), fresh=options.stochastic)
        return replace(plan, timesteps=single(plan.timesteps))

    def _given(self, num_steps: int, shift: float, terminal: float | None) -> list[float]:
        given = self.options.sigmas or ()
        if len(given) != num_steps:
            raise VaderError(
                f"sampler 'flow_euler': {len(given)} sigmas are given for {num_steps} steps: use --num-steps "
                f"{len(given)}, or leave sampler.sigmas out"
            )
        return stretched([shifted(tau, shift) for tau in given], terminal)

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """Where the steps are stochastic, all but the last."""
        return plan.tables["fresh"][i] > 0.0

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """Follow the velocity to the next time; or to the data, and from there to it with fresh noise."""
        tau = plan.tables["fresh"][i]
        if noise is not None and tau > 0.0:
            return state.at(weighted(1.0 - tau, self.clean(plan, i, state, prediction), tau, noise))
        return state.at(weighted(1.0, state.latents, plan.tables["length"][i], prediction.value))

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """Follow the velocity to tau = 0."""
        return weighted(1.0, state.latents, plan.tables["to_clean"][i], prediction.value)

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """The point at tau_i on the straight path from ``clean`` to ``noise``."""
        tau = plan.tables["tau"][i]
        return State(weighted(1.0 - tau, clean, tau, noise))
