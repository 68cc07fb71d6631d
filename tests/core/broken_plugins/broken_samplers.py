"""Samplers with one defect each."""

from dataclasses import replace

import torch

from vader_core.builtin.samplers.euler import Euler
from vader_core.builtin.samplers.rectified_flow import RectifiedFlowEuler
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, State


class Remembering(RectifiedFlowEuler):
    def step(self, plan, i, state, prediction, noise):
        before = self.__dict__.get("before", prediction)
        self.__dict__["before"] = prediction
        return super().step(plan, i, state, Prediction(0.5 * (prediction.value + before.value)), noise)


class Overwriting(RectifiedFlowEuler):
    def step(self, plan, i, state, prediction, noise):
        after = super().step(plan, i, state, prediction, noise)
        state.latents.detach().mul_(0.999)
        return after


class Drawing(RectifiedFlowEuler):
    def step(self, plan, i, state, prediction, noise):
        after = super().step(plan, i, state, prediction, noise)
        return after.at(after.latents + 1e-3 * torch.randn_like(after.latents))


class Tabled(RectifiedFlowEuler):
    def plan(self, schedule, num_steps, geometry):
        made = super().plan(schedule, num_steps, geometry)
        return replace(made, tables={k: tuple(torch.tensor(v) for v in t) for k, t in made.tables.items()})


class Extra(RectifiedFlowEuler):
    def plan(self, schedule, num_steps, geometry):
        return super().plan(schedule, num_steps + (num_steps > 2), geometry)


class Detaching(RectifiedFlowEuler):
    def step(self, plan, i, state, prediction, noise):
        return super().step(plan, i, state.at(state.latents.detach()), prediction, noise)


class Widening(RectifiedFlowEuler):
    def step(self, plan, i, state, prediction, noise):
        return super().step(plan, i, state.at(state.latents.double()), prediction, noise)


class Backwards(RectifiedFlowEuler):
    def step(self, plan, i, state, prediction, noise):
        return super().step(plan, i, state, Prediction(-prediction.value), noise)


class WrongEstimate(RectifiedFlowEuler):
    def clean(self, plan, i, state, prediction):
        return state.latents


class Unscaled(Euler):
    def model_input(self, plan, i, state):
        return state.latents


class Accepting(RectifiedFlowEuler):
    def plan(self, schedule, num_steps, geometry):
        if num_steps < 1:
            return Plan((), {}, "velocity")
        return super().plan(schedule, num_steps, geometry)


class Centring(RectifiedFlowEuler):
    def start(self, plan, noise):
        return State(noise - noise.mean(dim=0, keepdim=True) * (len(noise) > 1))
