"""PNDM (Liu et al. 2022): three Runge-Kutta steps, then a linear multistep method of fourth order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VariancePreserving
from vader_easyanimate.levels import Level, leading, levels_of

if TYPE_CHECKING:
    from vader_core.geometry import Geometry

#: Calls of the model beyond one per step: three steps take four calls each.
EXTRA_CALLS = 9
#: Fewest calls with a Runge-Kutta start.
LEAST_CALLS = 13
#: Share of each of a Runge-Kutta step's four predictions.
_SHARES = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
#: Weights of the newest predictions, newest first, by how many there are.
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
#: What the table ``phase`` says of a multistep step; below it, the place within a Runge-Kutta step.
_MULTISTEP = 4


class _Call(NamedTuple):
    """One call of the model: what it is told, where the step starts and ends, and which kind it is."""

    timestep: int
    start: int
    end: int
    phase: int


@dataclass(frozen=True)
class PNDM(Sampler):
    """PNDM where ``--num-steps`` counts calls of the model, as everywhere: 9 more than diffusers' steps.

    Timesteps repeat within the Runge-Kutta start, so they never rise but do not always fall. With fewer than
    13 calls there is no such start: the multistep method begins at first order. So does a path that
    :meth:`renoise` starts.

    Args:
        steps_offset: Added to every timestep.
    """

    steps_offset: int = 1
    schedules = (VariancePreserving,)

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Timesteps, and the levels of every step."""
        self.require(schedule, num_steps)
        assert isinstance(schedule, VariancePreserving)
        levels = levels_of(schedule, "pndm")
        calls = _calls(len(levels), num_steps, self.steps_offset)
        columns = {"": "timestep", "_from": "start", "_to": "end"}
        tables = {"phase": tuple(float(call.phase) for call in calls)}
        for suffix, field in columns.items():
            # below the first timestep the path ends at that one's noise
            found = [levels[max(getattr(call, field), 0)] for call in calls]
            tables[f"alpha{suffix}"] = tuple(level.alpha for level in found)
            tables[f"sigma{suffix}"] = tuple(level.sigma for level in found)
        return Plan(tuple(float(call.timestep) for call in calls), tables, schedule.prediction_type)

    @staticmethod
    def _level(plan: Plan, i: int, which: str = "") -> Level:
        return Level(plan.tables[f"alpha{which}"][i], plan.tables[f"sigma{which}"][i])

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """One call's update."""
        estimate = self._level(plan, i).noise_of(state.latents, prediction.value, plan.prediction_type)
        if plan.tables["phase"][i] == _MULTISTEP:
            return self._multistep(plan, i, state, estimate)
        return self._runge_kutta(plan, i, state, estimate)

    def _multistep(self, plan: Plan, i: int, state: State, estimate: Tensor) -> State:
        history = (*state.history, estimate)[-len(_WEIGHTS) :]
        weights = _WEIGHTS[len(history) - 1]
        mixed = sum(
            (weight * one for weight, one in zip(weights[1:], history[-2::-1], strict=True)),
            weights[0] * estimate,
        )
        latents = _moved(state.latents, mixed, self._level(plan, i, "_from"), self._level(plan, i, "_to"))
        return State(latents, history)

    def _runge_kutta(self, plan: Plan, i: int, state: State, estimate: Tensor) -> State:
        phase = int(plan.tables["phase"][i])
        target = self._level(plan, i, "_to")
        history = (*state.history, estimate)[-len(_WEIGHTS) :] if phase == 0 else state.history
        if phase > 0 and "start" not in state.extra:
            # a path that began in the middle goes on at first order
            return State(_moved(state.latents, estimate, self._level(plan, i), target), history)
        start = state.extra.get("start", state.latents) if phase > 0 else state.latents
        share = _SHARES[phase] * estimate
        total = share if phase == 0 else state.extra["total"] + share
        used = total if phase == 3 else estimate
        latents = _moved(start, used, self._level(plan, i, "_from"), target)
        return State(latents, history, {} if phase == 3 else {"start": start, "total": total})

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The estimate of the clean latents before step ``i``."""
        return self._level(plan, i).clean_of(state.latents, prediction.value, plan.prediction_type)

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """``clean`` with the noise of timestep ``i``, and no history."""
        return State(self._level(plan, i).mixed(clean, noise))


def _moved(latents: Tensor, noise: Tensor, source: Level, target: Level) -> Tensor:
    """The latents at ``target``, if ``noise`` is theirs at ``source``."""
    ratio = target.alpha / source.alpha
    return ratio * latents + (target.sigma - ratio * source.sigma) * noise


def _calls(total: int, count: int, offset: int) -> list[_Call]:
    if count < LEAST_CALLS:
        stride = total // count
        return [_Call(t, t, t - stride, _MULTISTEP) for t in leading(total, count, offset, "pndm")]
    steps = count - EXTRA_CALLS
    timesteps = leading(total, steps, offset, "pndm")
    stride = total // steps
    half = stride // 2
    calls = []
    for first, second in pairwise(timesteps[:4]):
        middle = second + half
        calls += [
            _Call(first, first, first - half, 0),
            _Call(middle, first, middle, 1),
            _Call(middle, first, middle - half, 2),
            _Call(second, first, second, 3),
        ]
    return calls + [_Call(t, t, t - stride, _MULTISTEP) for t in timesteps[3:]]
