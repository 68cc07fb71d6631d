"""DDIM as EasyAnimate's interface runs it: to no noise at all, the clean estimate clipped if asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VariancePreserving
from vader_easyanimate.levels import Level, leading, levels_of

if TYPE_CHECKING:
    from vader_core.geometry import Geometry


@dataclass(frozen=True)
class ClippedDDIM(Sampler):
    """DDIM without fresh noise, over every (N // S)-th timestep.

    Args:
        clip: Largest size of a clean estimate; ``None`` leaves it alone. The noise estimate stays as it is.
        steps_offset: Added to every timestep.
    """

    clip: float | None = None
    steps_offset: int = 1
    schedules = (VariancePreserving,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Timesteps, and the levels that each step starts from and ends at."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, VariancePreserving)
        levels = levels_of(schedule, "easyanimate_ddim")
        stride = len(levels) // num_steps
        timesteps = leading(len(levels), num_steps, self.steps_offset, "easyanimate_ddim")
        targets = [levels[t - stride] if t >= stride else Level(1.0, 0.0) for t in timesteps]
        tables = {
            "alpha": tuple(levels[t].alpha for t in timesteps),
            "sigma": tuple(levels[t].sigma for t in timesteps),
            "alpha_to": tuple(level.alpha for level in targets),
            "sigma_to": tuple(level.sigma for level in targets),
        }
        return Plan(tuple(map(float, timesteps)), tables, schedule.prediction_type)

    @staticmethod
    def _level(plan: Plan, i: int) -> Level:
        return Level(plan.tables["alpha"][i], plan.tables["sigma"][i])

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """One update."""
        target = Level(plan.tables["alpha_to"][i], plan.tables["sigma_to"][i])
        estimate = self._level(plan, i).noise_of(state.latents, prediction.value, plan.prediction_type)
        return state.at(target.mixed(self.clean(plan, i, state, prediction), estimate))

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The estimate of the clean latents before step ``i``, clipped where that is on."""
        estimate = self._level(plan, i).clean_of(state.latents, prediction.value, plan.prediction_type)
        return estimate if self.clip is None else estimate.clamp(-self.clip, self.clip)

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """``clean`` with the noise of timestep ``i``."""
        return State(self._level(plan, i).mixed(clean, noise))
