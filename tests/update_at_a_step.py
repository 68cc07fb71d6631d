"""One differentiated step by hand, at any noise level of any schedule."""

from __future__ import annotations

import torch


def levels(parts, at):
    """(alpha, sigma) of what the model is given at step ``at``, from the schedule alone."""
    plan, schedule = parts.model.plan(parts.geometry), parts.backbone.schedule
    name = type(schedule).__name__
    if name == "RectifiedFlow":
        tau = plan.tables["tau"][at]
        return 1 - tau, tau
    if name == "VarianceExploding":
        sigma = float(torch.tensor(4 * plan.timesteps[at], dtype=torch.float64).exp())
        return (sigma**2 + 1) ** -0.5, sigma * (sigma**2 + 1) ** -0.5
    kept = float(schedule.alphas_cumprod[int(plan.timesteps[at])])
    return kept**0.5, (1 - kept) ** 0.5


def predicted(parts, latents, at, conditioning):
    timestep = torch.full(
        (len(latents),), parts.model.plan(parts.geometry).timesteps[at], dtype=latents.dtype
    )
    conditional = parts.backbone.predict(latents, timestep, conditioning.conditional_branch).value
    other = parts.backbone.predict(latents, timestep, conditioning.unconditional_branch).value
    return other + 2.5 * (conditional - other)


def clean_of(parts, given, prediction, alpha, sigma):
    kind = parts.backbone.schedule.prediction_type
    if kind == "velocity":
        return given - sigma * prediction
    if kind == "epsilon":
        return (given - sigma * prediction) / alpha
    return alpha * given - sigma * prediction


def loss_of(parts, clean, batch, rng):
    video = parts.backbone.decode(clean, parts.geometry)
    brightness, motion = (term.reward for term in parts.rewards.terms)
    total = 1.5 * brightness(video, batch.prompts, rng).loss + 0.5 * motion(video, batch.prompts, rng).loss
    return total.mean()
