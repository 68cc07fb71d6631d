"""Euler steps along a rectified flow (Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.builtin.samplers.marginal import weighted
from vader_core.builtin.samplers.options import RectifiedFlowOptions
from vader_core.errors import VaderError
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import RectifiedFlow, Schedule

if TYPE_CHECKING:
    from vader_core.conditioning import Conditioning
    from vader_core.geometry import Geometry


@dataclass(frozen=True)
class RectifiedFlowEuler(Sampler):
    """S Euler steps from tau = 1 to tau = 0, at tau_i = 1 - i / S before the time shift.

    With a noise level the steps are random and keep the flow's marginals (Flow-GRPO, arXiv 2505.05470,
    eq. 9): dx = (v + sigma^2 / (2 tau) (x + (1 - tau) v)) dtau + sigma sqrt(-dtau) noise, with sigma = a
    sqrt(tau / (1 - tau)). The last step stays deterministic: noise that no step removes would only blur.

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
            "noise": tuple(self._noise(taus, i) for i in range(num_steps)),
        }
        timesteps = tuple(tau * schedule.num_train_timesteps for tau in taus[:-1])
        return Plan(timesteps, tables, schedule.prediction_type)

    def _noise(self, taus: tuple[float, ...], i: int) -> float:
        """Standard deviation of the noise that step ``i`` adds."""
        if self.options.noise_level == 0.0 or i == len(taus) - 2:
            return 0.0
        # at tau = 1 sigma is infinite; the second step's time stands in, as in the paper's code
        bounded = min(taus[i], taus[1])
        sigma: float = self.options.noise_level * (bounded / (1.0 - bounded)) ** 0.5
        return float(sigma * (taus[i] - taus[i + 1]) ** 0.5)

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """Where a noise level is set, at every step but the last."""
        return plan.tables["noise"][i] > 0.0

    def transition(self, plan: Plan, i: int, state: State, prediction: Prediction) -> tuple[Tensor, float]:
        """Mean and deviation of the random step."""
        if self.options.noise_level == 0.0:
            return super().transition(plan, i, state, prediction)
        taus, deviation = plan.tables["tau"], plan.tables["noise"][i]
        tau, length = taus[i], taus[i + 1] - taus[i]
        velocity = prediction.value * (plan.tables["length"][i] / length)
        if deviation == 0.0:
            return state.latents + velocity * length, 0.0
        drift = deviation**2 / (-length) / (2.0 * tau) * (state.latents + (1.0 - tau) * velocity)
        return state.latents + (velocity + drift) * length, deviation

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """Follow the velocity to the next time."""
        if noise is not None and plan.tables["noise"][i] > 0.0:
            mean, deviation = self.transition(plan, i, state, prediction)
            return state.at(mean + deviation * noise)
        return state.at(weighted(1.0, state.latents, plan.tables["length"][i], prediction.value))

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """Follow the velocity to tau = 0."""
        return weighted(1.0, state.latents, plan.tables["to_clean"][i], prediction.value)

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """The point at tau_i on the straight path from ``clean`` to ``noise``."""
        tau = plan.tables["tau"][i]
        return State(weighted(1.0 - tau, clean, tau, noise))
