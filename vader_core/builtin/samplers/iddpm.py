"""Ancestral DDPM with a learned variance, over respaced steps (Ho et al. 2020; Nichol and Dhariwal 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vader_core.builtin.samplers.marginal import clean_weights, weighted
from vader_core.builtin.samplers.options import IDDPMOptions
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.diffusion_loss import LearnedRange
from vader_core.prediction import Prediction
from vader_core.sampler import Plan, Sampler, State
from vader_core.schedule import Schedule, VariancePreserving
from vader_core.text import Tensors

#: Where a frame mask [b, t] and the given frames [b, c, t, h, w] lie in a conditioning.
FRAME_MASK = "frame_mask"
REFERENCE = "reference"


def respaced_timesteps(num_train_timesteps: int, num_steps: int) -> list[int]:
    """``num_steps`` of the trained timesteps from 0 to the last, evenly spaced, ascending.

    The stride is added up, as the papers' code does, so that its rounding decides about halves. A single step
    takes the last timestep, which is the only one that starts from noise.

    >>> respaced_timesteps(1000, 5)
    [0, 250, 500, 749, 999]
    """
    if num_steps == 1:
        return [num_train_timesteps - 1]
    stride = (num_train_timesteps - 1) / (num_steps - 1)
    position, found = 0.0, []
    for _ in range(num_steps):
        found.append(round(position))
        position += stride
    return found


@dataclass(frozen=True)
class IDDPM(Sampler):
    """One ancestral step per kept timestep: the posterior's mean plus noise of the predicted variance.

    Betas are derived again from the kept timesteps' cumulative products, so that S steps are a diffusion of
    their own. Where the model predicts a share f = (v + 1) / 2, the log variance runs from the posterior's
    (f = 0) to log beta (f = 1); where it predicts none, it is the posterior's. Nothing is clipped.

    A frame mask m in [0, 1] per latent frame generates a frame (1), keeps it (0) or edits it from the last
    m S steps on. Given frames come from the conditioning's ``reference``; one that is edited is noised with
    its own part of the initial noise just before its first step.

    Args:
        options: See ``vader show sampler iddpm``.
    """

    options: IDDPMOptions = field(default_factory=IDDPMOptions)
    schedules = (VariancePreserving,)

    # -- the plan ----------------------------------------------------------------------------------------

    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Kept timesteps, falling, and the coefficients of every step.

        Raises:
            VaderError: Another kind of schedule, more steps than it has timesteps, or one with a scale of its
                own.
        """
        self.require(schedule, num_steps)
        assert isinstance(schedule, VariancePreserving)
        total = schedule.num_train_timesteps
        if num_steps > total:
            raise VaderError(
                f"--num-steps {num_steps} is not allowed: this schedule has {total} timesteps, use at most "
                f"{total}"
            )
        if schedule.scale is not None:
            raise VaderError(
                "sampler 'iddpm' cannot follow a schedule with an extra scale of x_0: use --sampler ddim"
            )
        timesteps = respaced_timesteps(total, num_steps)
        columns = self._columns(schedule.alphas_cumprod.cpu()[timesteps])
        # Rows run with the executed steps, from noise to data.
        rows = {name: tuple(reversed(column.double().tolist())) for name, column in columns.items()}
        weights = [
            clean_weights(alpha, sigma, schedule.prediction_type)
            for alpha, sigma in zip(rows["alpha"], rows["sigma"], strict=True)
        ]
        if schedule.prediction_type == "epsilon":
            # In the tables' own precision: at the first step 1 / A - 1 has few digits left.
            weights = list(zip(rows["clean_latents"], rows["clean_prediction"], strict=True))
        rows["clean_latents"] = tuple(one for one, _ in weights)
        rows["clean_prediction"] = tuple(other for _, other in weights)
        return Plan(tuple(float(t) for t in reversed(timesteps)), rows, schedule.prediction_type)

    def _columns(self, kept: Tensor) -> dict[str, Tensor]:
        """Coefficients by ascending kept timestep, from the cumulative products at these timesteps, [S]."""
        # The betas are rounded once, at the end; all that follows is computed from the rounded ones.
        posterior = LearnedRange.of(kept, getattr(torch, self.options.table_dtype))
        products = posterior.alphas_cumprod
        return {
            "alpha": products.sqrt(),
            "sigma": (1 - products).sqrt(),
            "clean_latents": (1 / products).sqrt(),
            "clean_prediction": -(1 / products - 1).sqrt(),
            "mean_clean": posterior.mean_of_data,
            "mean_latents": posterior.mean_of_noised,
            # The last step's variance is 0 and never used; its place is taken by the one before.
            "smallest_log_variance": posterior.lowest_log_variance,
            "largest_log_variance": posterior.highest_log_variance,
        }

    # -- steps -------------------------------------------------------------------------------------------

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """At every step but the last."""
        return i < plan.num_steps - 1

    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """The posterior's mean, and noise but for the last step."""
        mean = self._mean(plan, i, state, prediction)
        if noise is None or i == plan.num_steps - 1:
            return state.at(mean)
        low, high = plan.tables["smallest_log_variance"][i], plan.tables["largest_log_variance"][i]
        if prediction.variance is None:
            return state.at(mean + math.exp(low / 2) * noise)
        share = (prediction.variance + 1) / 2
        log_variance = share * high + (1 - share) * low
        return state.at(mean + (log_variance / 2).exp() * noise)

    def transition(self, plan: Plan, i: int, state: State, prediction: Prediction) -> tuple[Tensor, float]:
        """The posterior's mean and deviation, for models that predict no variance.

        Raises:
            VaderError: The model predicts one for every element.
        """
        if prediction.variance is not None:
            raise VaderError(
                "sampler 'iddpm': this model predicts a variance for every element, so that its steps have "
                "no one deviation: use --sampler ddim -o sampler.eta=1"
            )
        deviation = math.exp(plan.tables["smallest_log_variance"][i] / 2) if i < plan.num_steps - 1 else 0.0
        return self._mean(plan, i, state, prediction), deviation

    def _mean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        estimate, tables = self._estimate(plan, i, state, prediction), plan.tables
        return weighted(tables["mean_clean"][i], estimate, tables["mean_latents"][i], state.latents)

    def _estimate(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        tables = plan.tables
        return weighted(
            tables["clean_latents"][i], state.latents, tables["clean_prediction"][i], prediction.value
        )

    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The estimate of the clean latents before step ``i``; frames that are given are clean already."""
        estimate = self._estimate(plan, i, state, prediction)
        if "active" not in state.extra:
            return estimate
        return torch.where(state.extra["active"], estimate, state.extra["given"])

    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """``clean`` with the noise of step ``i``'s timestep."""
        return State(weighted(plan.tables["alpha"][i], clean, plan.tables["sigma"][i], noise))

    # -- frame masks -------------------------------------------------------------------------------------

    def first_steps(self, plan: Plan, mask: Tensor) -> Tensor:
        """How many of the last steps each frame takes part in, int64, from a mask [b, t] in [0, 1].

        The product is cut, in float32: 0.53 of 100 steps are 52.
        """
        return (mask.float() * plan.num_steps).long()

    def told(self, plan: Plan, i: int, conditioning: Conditioning) -> Conditioning:
        """The frame mask becomes bool: True where the model is to generate a frame at step ``i``.

        At its own first step a frame that is edited still counts as given, though it is updated: that is the
        official rule.
        """

        def narrowed(tensors: Tensors) -> Tensors:
            generated = self.first_steps(plan, tensors[FRAME_MASK]) > plan.num_steps - 1 - i
            return {**tensors, FRAME_MASK: generated}

        if FRAME_MASK not in conditioning.tensors:
            return conditioning
        other = conditioning.unconditional
        return Conditioning(
            narrowed(conditioning.tensors), None if other is None else narrowed(other), conditioning.shared
        )

    def before_step(
        self, plan: Plan, i: int, state: State, conditioning: Conditioning, noise: Tensor | None
    ) -> State:
        """Put given frames in their place; noise those whose first step this is."""
        if FRAME_MASK not in conditioning.tensors:
            return state
        mask = conditioning.tensors[FRAME_MASK]
        first, left = self.first_steps(plan, mask), plan.num_steps - 1 - i
        initial = state.extra.get("initial", state.latents)
        given = conditioning.tensors.get(REFERENCE, initial)
        latents = state.latents
        if i == 0:
            latents = torch.where(_broadcast(first >= plan.num_steps), latents, given)
        latents = torch.where(
            _broadcast(first == left), self.renoise(plan, i, given, initial).latents, latents
        )
        held = {"initial": initial, "given": given, "active": _broadcast(first >= left)}
        return replace(state, latents=latents, extra=held)

    def after_step(
        self, plan: Plan, i: int, state: State, conditioning: Conditioning, noise: Tensor | None
    ) -> State:
        """Put frames that are not generated yet back to what is given."""
        if "active" not in state.extra:
            return state
        return state.at(torch.where(state.extra["active"], state.latents, state.extra["given"]))


def _broadcast(mask: Tensor) -> Tensor:
    """[b, t] → [b, 1, t, 1, 1]."""
    return mask[:, None, :, None, None]
