"""The sampler ``example_quadratic``."""

from torch import Tensor
from vader_core import Geometry, Plan, Prediction, RectifiedFlow, Sampler, State


class QuadraticFlow(Sampler):
    """Rectified flow, x = (1 - tau) x_0 + tau noise, in steps that begin small and grow."""

    schedules = (RectifiedFlow,)

    def plan(self, schedule: RectifiedFlow, num_steps: int, geometry: Geometry) -> Plan:
        self.require(schedule, num_steps)
        tau = tuple(1 - (i / num_steps) ** 2 for i in range(num_steps + 1))
        tables = {"tau": tau, "sign": (float(schedule.velocity_sign),) * num_steps}
        return Plan(tuple(schedule.num_train_timesteps * t for t in tau[:-1]), tables, "velocity")

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        tau, sign = plan.tables["tau"], plan.tables["sign"][i]
        return state.at(state.latents + sign * (tau[i + 1] - tau[i]) * prediction.value)

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        return state.latents - plan.tables["sign"][i] * plan.tables["tau"][i] * prediction.value

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        return State(clean + plan.tables["tau"][i] * (noise - clean))
