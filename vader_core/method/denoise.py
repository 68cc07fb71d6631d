"""The rollout: from noise to latents, differentiated where the gradient was chosen to flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.method.gradient import Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.shortcuts import WHOLE, Shortcuts, ShortPredictions
from vader_core.randomness import Randomness
from vader_core.sampler import Plan, Sampler, State


@dataclass(frozen=True)
class DifferentiatedStep:
    """What happened at one differentiated step.

    Args:
        index: Which executed step.
        latents: What the model was given, detached [B, C, T, h, w].
        timestep: [B].
        prediction: The guided prediction, with its graph [B, C, T, h, w].
    """

    index: int
    latents: Tensor
    timestep: Tensor
    prediction: Tensor


@dataclass(frozen=True)
class Rollout:
    """The result of :func:`denoise`.

    Args:
        latents: Clean latents [B, C, T, h, w].
        record: The differentiated steps, in order.
    """

    latents: Float[Tensor, "b c t h w"]
    record: tuple[DifferentiatedStep, ...]


@dataclass(frozen=True)
class Sampling:
    """How noise is turned into latents.

    Args:
        sampler: The sampler.
        plan: Its plan for the backbone's schedule and S steps.
        guidance: Classifier-free guidance.
    """

    sampler: Sampler
    plan: Plan
    guidance: Guidance


def denoise(
    backbone: Backbone,
    sampling: Sampling,
    noise: Float[Tensor, "b c t h w"],
    conditioning: Conditioning,
    drawn: Drawn,
    rng: Randomness,
    shortcuts: Shortcuts = WHOLE,
) -> Rollout:
    """Run the denoising steps (Algorithm 1 of the paper).

    Only ``predict`` is switched on at the chosen steps. From the first chosen step on, everything else is in
    the graph.

    Args:
        backbone: The model.
        sampling: Sampler, plan and guidance.
        noise: Standard normal latents.
        conditioning: From the backbone; both branches.
        drawn: Steps to differentiate.
        rng: For samplers that use fresh noise.
        shortcuts: What the no-graph steps leave out.
    """
    try:
        return _rollout(backbone, sampling, noise, conditioning, drawn, rng, shortcuts)
    finally:
        if backbone.folding is not None:
            backbone.folding.set(False)
        if backbone.fp8 is not None:
            backbone.fp8.set(False)


def _rollout(
    backbone: Backbone,
    sampling: Sampling,
    noise: Tensor,
    conditioning: Conditioning,
    drawn: Drawn,
    rng: Randomness,
    shortcuts: Shortcuts,
) -> Rollout:
    sampler, plan = sampling.sampler, sampling.plan
    first = min(drawn.steps, default=plan.num_steps)
    state = sampler.start(plan, noise)
    short = ShortPredictions(backbone, sampling.guidance, shortcuts) if shortcuts.on else None
    record: list[DifferentiatedStep] = []
    for i in range(plan.num_steps):
        fresh = _fresh_noise(sampling, i, state, conditioning, rng)
        with torch.set_grad_enabled(i >= first and torch.is_grad_enabled()):
            state = sampler.before_step(plan, i, state, conditioning, fresh)
            latents = sampler.model_input(plan, i, state)
            prediction = _predict(backbone, sampling, i, latents, conditioning, drawn, short)
            if i in drawn.steps:
                record.append(
                    DifferentiatedStep(i, latents.detach(), _timestep(plan, i, latents), prediction)
                )
            if i == drawn.ends_at:
                return Rollout(sampler.clean(plan, i, state, prediction), tuple(record))
            state = sampler.step(plan, i, state, prediction, fresh)
            state = sampler.after_step(plan, i, state, conditioning, fresh)
    return Rollout(state.latents, tuple(record))


def _timestep(plan: Plan, i: int, latents: Tensor) -> Tensor:
    return torch.full((len(latents),), plan.timesteps[i], device=latents.device, dtype=latents.dtype)


def _predict(
    backbone: Backbone,
    sampling: Sampling,
    i: int,
    latents: Tensor,
    conditioning: Conditioning,
    drawn: Drawn,
    short: ShortPredictions | None,
) -> Tensor:
    chosen = i in drawn.steps
    given = latents.detach() if drawn.detach_input or not chosen else latents
    if backbone.folding is not None:
        backbone.folding.set(not chosen)
    if backbone.fp8 is not None:
        backbone.fp8.set(short is not None and not chosen)
    timestep = _timestep(sampling.plan, i, given)
    with torch.set_grad_enabled(chosen and torch.is_grad_enabled()):
        if short is not None and not chosen:
            return short.predict(i, given, timestep, conditioning)
        return sampling.guidance.predict(backbone, given, timestep, conditioning)


def _fresh_noise(
    sampling: Sampling, i: int, state: State, conditioning: Conditioning, rng: Randomness
) -> Tensor | None:
    if not sampling.sampler.needs_noise(sampling.plan, i, conditioning):
        return None
    latents = state.latents
    return rng.normal(f"step {i}", latents.shape[1:], device=latents.device, dtype=latents.dtype)


def base_distance(
    backbone: Backbone, sampling: Sampling, rollout: Rollout, conditioning: Conditioning
) -> Float[Tensor, " b"]:
    """Mean squared distance of the recorded predictions to the base model's at the same inputs: [B].

    Call it with the adapter off. Up to a factor that depends on the step this is the KL divergence of the two
    samplers.
    """
    distances = []
    for step in rollout.record:
        with torch.no_grad():
            base = sampling.guidance.predict(backbone, step.latents, step.timestep, conditioning)
        distances.append((step.prediction - base).pow(2).flatten(1).mean(dim=1))
    return torch.stack(distances).mean(dim=0)
