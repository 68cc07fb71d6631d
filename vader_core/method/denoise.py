"""The rollout: from noise to latents, differentiated where the gradient was chosen to flow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.method.gradient import Drawn
from vader_core.prediction import Prediction
from vader_core.randomness import Randomness
from vader_core.sampler import Plan, Sampler

Predict = Callable[[Tensor, float, Conditioning], Prediction]


class Denoiser(Protocol):
    """What :func:`denoise` asks of a model."""

    @property
    def sampler(self) -> Sampler:
        """How noise becomes latents."""

    def plan(self, geometry: Geometry) -> Plan:
        """The sampler's plan for that geometry."""

    def predict(self, latents: Tensor, timestep: float, conditioning: Conditioning) -> Prediction:
        """The guided prediction, with its graph."""

    def without_graph(self, i: int) -> AbstractContextManager[Predict]:
        """Within, no graph is recorded, and what makes that cheaper is on; gives what predicts step ``i``."""


@dataclass(frozen=True)
class Seen:
    """One executed step, for whoever watches.

    Args:
        index: Which executed step.
        latents: What the model was given [B, C, T, h, w].
        timestep: What the model was told, in its own units.
        prediction: The guided prediction.
        after: The latents after the step; clean ones where the rollout ended here.
    """

    index: int
    latents: Tensor
    timestep: float
    prediction: Prediction
    after: Tensor


Watcher = Callable[[Seen], None]


@dataclass(frozen=True)
class DifferentiatedStep:
    """What happened at one differentiated step.

    Args:
        index: Which executed step.
        latents: What the model was given, detached [B, C, T, h, w].
        timestep: What the model was told, in its own units.
        conditioning: What else it was given.
        prediction: The guided prediction's value, with its graph [B, C, T, h, w].
    """

    index: int
    latents: Tensor
    timestep: float
    conditioning: Conditioning
    prediction: Tensor


@dataclass(frozen=True)
class Rollout:
    """The result of :func:`denoise`.

    Args:
        latents: Clean latents [B, C, T, h, w].
        conditioning: What they were made from.
        record: The differentiated steps, in order.
    """

    latents: Float[Tensor, "b c t h w"]
    conditioning: Conditioning
    record: tuple[DifferentiatedStep, ...] = ()

    def detached(self) -> Rollout:
        """The same latents without a graph."""
        return Rollout(self.latents.detach(), self.conditioning)


def denoise(
    model: Denoiser,
    noise: Float[Tensor, "b c t h w"],
    conditioning: Conditioning,
    geometry: Geometry,
    drawn: Drawn,
    rng: Randomness,
    watch: Watcher | None = None,
) -> Rollout:
    """Run the denoising steps (Algorithm 1 of the paper).

    Args:
        model: Sampler, guidance, and what predicts.
        noise: Standard normal latents.
        conditioning: From the backbone; both branches.
        geometry: Of the videos.
        drawn: Steps to differentiate.
        rng: For samplers that use fresh noise.
        watch: Called after every step.
    """
    sampler, plan = model.sampler, model.plan(geometry)
    first = min(drawn.steps, default=plan.num_steps)
    state = sampler.start(plan, noise)
    record: list[DifferentiatedStep] = []
    for i in range(plan.num_steps):
        fresh = None
        if sampler.needs_noise(plan, i, conditioning):
            shape = state.latents.shape[1:]
            fresh = rng.normal(f"step {i}", shape, device=noise.device, dtype=noise.dtype)
        # From the first chosen step on the sampler's arithmetic is in the graph whichever steps were chosen:
        # only so does the chain from a chosen prediction reach the clean latents.
        with torch.set_grad_enabled(i >= first and torch.is_grad_enabled()):
            state = sampler.before_step(plan, i, state, conditioning, fresh)
            latents, told = sampler.model_input(plan, i, state), sampler.told(plan, i, conditioning)
            if i in drawn.steps and torch.is_grad_enabled():
                given = latents.detach() if drawn.detach_input else latents
                prediction = model.predict(given, plan.timesteps[i], told)
                record.append(
                    DifferentiatedStep(i, latents.detach(), plan.timesteps[i], told, prediction.value)
                )
            else:
                with model.without_graph(i) as predict:
                    prediction = predict(latents.detach(), plan.timesteps[i], told)
            ends = i == drawn.ends_at
            if ends:
                after = sampler.clean(plan, i, state, prediction)
            else:
                state = sampler.step(plan, i, state, prediction, fresh)
                state = sampler.after_step(plan, i, state, conditioning, fresh)
                after = state.latents
        if watch is not None:
            watch(Seen(i, latents.detach(), plan.timesteps[i], prediction, after))
        if ends:
            return Rollout(after, conditioning, tuple(record))
    return Rollout(state.latents, conditioning, tuple(record))
