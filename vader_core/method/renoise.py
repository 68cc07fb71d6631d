"""Clean latents, noised anew to one step, and that step differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.geometry import Geometry
from vader_core.method.denoise import DifferentiatedStep, Rollout
from vader_core.method.gradient import Drawn
from vader_core.method.model import Model
from vader_core.method.segments import Trajectory
from vader_core.prediction import Prediction
from vader_core.randomness import Randomness
from vader_core.sampler import Plan, Sampler, State


def renoised(
    model: Model,
    kept: Rollout,
    geometry: Geometry,
    frames: Sequence[int],
    rng: Randomness,
    step: int,
    *,
    known_noise: bool = False,
) -> Trajectory:
    """Step ``step`` once more, differentiated, from clean latents with fresh noise.

    Args:
        model: The model.
        kept: Clean latents, and what they were made from.
        geometry: Of the videos.
        frames: Frames to decode.
        rng: For the fresh noise.
        step: Which executed step.
        known_noise: Find the clean latents by :func:`without_noise`, not by the sampler's estimate.
    """
    sampler, plan, clean = model.sampler, model.plan(geometry), kept.latents
    drawn = partial(rng.normal, shape=clean.shape[1:], device=clean.device, dtype=clean.dtype)
    noise = drawn("renoise")
    further = drawn(f"step {step}") if sampler.needs_noise(plan, step, kept.conditioning) else None
    state = sampler.renoise(plan, step, clean, noise)
    state = sampler.before_step(plan, step, state, kept.conditioning, further)
    latents = sampler.model_input(plan, step, state)
    told = sampler.told(plan, step, kept.conditioning)
    prediction = model.predict(latents, plan.timesteps[step], told)
    record = (DifferentiatedStep(step, latents.detach(), plan.timesteps[step], told, prediction.value),)
    if known_noise:
        estimate = without_noise(sampler, plan, step, state, prediction, noise)
    else:
        estimate = sampler.clean(plan, step, state, prediction)
    rollout = Rollout(estimate, kept.conditioning, record)
    return Trajectory(rollout, tuple(frames), geometry, Drawn(frozenset({step})))


def without_noise(
    sampler: Sampler,
    plan: Plan,
    i: int,
    state: State,
    prediction: Prediction,
    noise: Float[Tensor, "b c t h w"],
) -> Float[Tensor, "b c t h w"]:
    """One sampling step, and what is left of the known noise removed (Direct-Align, arXiv 2509.06942).

    x_0 = (x_(i+1) - sigma_(i+1) noise) / alpha_(i+1). A perfect prediction gives the same as the sampler's
    estimate; an imperfect one is off by less, since it is trusted for one step alone.

    Args:
        sampler: Its step must be deterministic.
        plan: Its plan.
        i: The step.
        state: Before the step.
        prediction: At the step, guided.
        noise: What ``state`` was made with.
    """
    after = sampler.step(plan, i, state, prediction, None).latents
    if i + 1 == plan.num_steps:
        return after
    one, none = after.new_ones(()), after.new_zeros(())
    alpha = sampler.renoise(plan, i + 1, one, none).latents
    sigma = sampler.renoise(plan, i + 1, none, one).latents
    found = (after - sigma * noise) / alpha
    if "active" in state.extra:  # frames that are given hold no noise
        found = torch.where(state.extra["active"], found, state.extra["given"])
    return found
