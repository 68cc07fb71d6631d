"""VideoCrafter2's own DDIM: a scale on the clean latents, and noise in every step, the last one too."""

from __future__ import annotations

import torch
from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VariancePreserving


class VideoCrafterDDIM(Sampler):
    """DDIM (Song et al. 2021, equation 12) as VideoCrafter2 runs it.

    It differs from the textbook in three ways, all from the official sampler: timesteps are shifted by one
    (1, 41, … 961 for 25 steps), the clean estimate is divided by the schedule's scale at t and multiplied by
    the scale at the next t, and the last step, at t = 1, also adds noise where `eta` is not 0.

    Args:
        eta: 0 (deterministic) to 1 (as much noise as ancestral sampling).
    """

    schedules = (VariancePreserving,)

    def __init__(self, eta: float = 1.0) -> None:
        self.eta = eta

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Coefficients for exactly `num_steps` steps, first executed step first.

        Timesteps are floor(i N / S) + 1: the official ones wherever S divides N, and evenly spread elsewhere.

        Raises:
            VaderError: Not a variance-preserving schedule, or a number of steps outside 1 … N-1.
        """
        self.require(schedule, num_steps)
        if not isinstance(schedule, VariancePreserving):
            raise VaderError("sampler 'ddim_videocrafter' follows a VariancePreserving schedule")
        total = schedule.num_train_timesteps
        if num_steps >= total:
            raise VaderError(
                f"sampler 'ddim_videocrafter': --num-steps {num_steps} is not allowed: use 1 to {total - 1} "
                f"(nearest: {total - 1})"
            )
        times = torch.tensor([index * total // num_steps + 1 for index in range(num_steps)])
        scale = torch.ones(total, dtype=torch.float64) if schedule.scale is None else schedule.scale.double()
        cumulative = schedule.alphas_cumprod.double()
        before = torch.cat([torch.zeros(1, dtype=times.dtype), times[:-1]])
        alpha, alpha_next = cumulative[times], cumulative[before]
        variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
        sigma = self.eta * variance.sqrt()
        tables = {
            "signal": alpha.sqrt(),
            "noise": (1 - alpha).sqrt(),
            "scale": scale[times],
            "next_signal": alpha_next.sqrt() * scale[before],
            "next_noise": (1 - alpha_next - sigma**2).clamp(min=0).sqrt(),
            "sigma": sigma,
        }
        return Plan(
            timesteps=tuple(float(t) for t in times.flip(0)),
            tables={name: tuple(values.flip(0).tolist()) for name, values in tables.items()},
            prediction_type=schedule.prediction_type,
        )

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """True wherever the step adds noise: everywhere unless `eta` is 0."""
        return plan.tables["sigma"][i] > 0

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """One DDIM update; `noise` `[B, C, T, h, w]` is added with the step's sigma."""
        tables = plan.tables
        epsilon = self._epsilon(plan, i, state, prediction)
        latents = (
            tables["next_signal"][i] * self.clean(plan, i, state, prediction)
            + tables["next_noise"][i] * epsilon
        )
        if tables["sigma"][i] > 0:
            if noise is None:
                raise VaderError(f"sampler 'ddim_videocrafter': step {i} with eta={self.eta:g} needs noise")
            latents = latents + tables["sigma"][i] * noise
        return state.at(latents)

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The clean latents that the prediction implies, with the scale taken out."""
        tables = plan.tables
        if plan.prediction_type == "v":
            scaled = tables["signal"][i] * state.latents - tables["noise"][i] * prediction.value
        else:
            scaled = (state.latents - tables["noise"][i] * prediction.value) / tables["signal"][i]
        return scaled / tables["scale"][i]

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """Noised latents at the time of step `i`: sqrt(a) scale x0 + sqrt(1 - a) noise."""
        tables = plan.tables
        return State(tables["signal"][i] * tables["scale"][i] * clean + tables["noise"][i] * noise)

    def _epsilon(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        if plan.prediction_type == "v":
            return plan.tables["signal"][i] * prediction.value + plan.tables["noise"][i] * state.latents
        return prediction.value
