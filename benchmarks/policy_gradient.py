"""A plain policy-gradient baseline (Flow-GRPO, arXiv 2505.05470) on the toolkit's own parts.

The deterministic flow is made stochastic with the same marginals, a group of clips of one prompt is sampled,
the rewards of the group are normalised into advantages, and the log-probability of every stochastic step is
weighted with its clip's advantage. One on-policy update a batch, so the ratio is 1 and clipping it would do
nothing. No KL term. The reward is only queried: no gradient runs through the decoder or the reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.method.denoise import Sampling
from vader_core.method.mixture import Mixture
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness


@dataclass(frozen=True)
class PolicySettings:
    """How the baseline samples.

    Args:
        groups: Prompts an update.
        group_size: Clips a prompt.
        noise_level: a in sigma = a sqrt(tau / (1 - tau)); 0.7 is the paper's.
    """

    groups: int = 4
    group_size: int = 8
    noise_level: float = 0.7

    @property
    def batch_size(self) -> int:
        """Clips, and reward queries, an update."""
        return self.groups * self.group_size


@dataclass(frozen=True)
class Transition:
    """One stochastic step of a rollout.

    Args:
        index: Which executed step.
        before: Latents that the model was given [B, C, T, h, w].
        after: Latents that were drawn [B, C, T, h, w].
    """

    index: int
    before: Tensor
    after: Tensor


def transition_mean(
    sampling: Sampling, i: int, latents: Tensor, prediction: Tensor, noise_level: float
) -> tuple[Tensor, float]:
    """Mean [B, C, T, h, w] and standard deviation of the stochastic step ``i``.

    dx = (v + sigma^2 / (2 tau) (x + (1 - tau) v)) dtau + sigma sqrt(-dtau) noise keeps the flow's marginals.
    At tau = 1 sigma is infinite; the second step's time stands in, as in the paper's code. The last step is
    deterministic: noise that no step removes would only blur the clip that is scored.
    """
    taus, lengths = sampling.plan.tables["tau"], sampling.plan.tables["length"]
    tau, step = taus[i], taus[i + 1] - taus[i]
    velocity = prediction * (lengths[i] / step)
    if i == sampling.plan.num_steps - 1:
        return latents + velocity * step, 0.0
    bounded = min(tau, taus[1])
    sigma = noise_level * (bounded / (1.0 - bounded)) ** 0.5
    drift = velocity + sigma**2 / (2.0 * tau) * (latents + (1.0 - tau) * velocity)
    return latents + drift * step, sigma * (-step) ** 0.5


def _predict(
    backbone: Backbone, sampling: Sampling, i: int, latents: Tensor, conditioning: Conditioning
) -> Tensor:
    timestep = torch.full((len(latents),), sampling.plan.timesteps[i], device=latents.device)
    return sampling.guidance.predict(backbone, latents, timestep.to(latents.dtype), conditioning)


@torch.no_grad()
def sample_stochastically(
    backbone: Backbone,
    sampling: Sampling,
    noise: Tensor,
    conditioning: Conditioning,
    noise_level: float,
    rng: Randomness,
) -> tuple[Tensor, list[Transition]]:
    """Clean latents [B, C, T, h, w] and the stochastic steps that led to them."""
    latents, transitions = noise, []
    for i in range(sampling.plan.num_steps):
        prediction = _predict(backbone, sampling, i, latents, conditioning)
        mean, deviation = transition_mean(sampling, i, latents, prediction, noise_level)
        if deviation == 0.0:
            latents = mean
            continue
        fresh = rng.normal(f"policy {i}", mean.shape[1:], device=mean.device, dtype=mean.dtype)
        after = mean + deviation * fresh
        transitions.append(Transition(i, latents, after))
        latents = after
    return latents, transitions


def advantages(scores: Tensor, group_size: int) -> Tensor:
    """Scores [B] less their group's mean, in units of the group's standard deviation: [B]."""
    grouped = scores.view(-1, group_size)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    return (centred / (grouped.std(dim=1, keepdim=True) + 1e-4)).flatten()


def policy_gradient_step(
    backbone: Backbone,
    rewards: Mixture,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    geometry: Geometry,
    settings: PolicySettings,
    rng: Randomness,
) -> Tensor:
    """Sample groups, query the reward, and leave the policy gradient in the adapter's ``grad``.

    Args:
        backbone: Loaded, with a LoRA attached.
        rewards: What to maximise.
        prompts: One a clip: each group's prompt ``group_size`` times.
        sampling: Sampler, plan (of a rectified flow) and guidance.
        geometry: Of the clips.
        settings: Groups and noise.
        rng: For as many samples as there are prompts.

    Returns:
        The scores [B].
    """
    with torch.no_grad():
        text = backbone.encode_text(prompts)
        conditioning = backbone.condition(text, prompts, geometry, rng)
        noise = backbone.initial_noise(len(prompts), geometry, rng)
        latents, transitions = sample_stochastically(
            backbone, sampling, noise, conditioning, settings.noise_level, rng
        )
        frames = rewards.choose_frames("all", geometry.num_frames, rng)
        video = backbone.decode(latents, geometry, list(frames.union))
        scores = -rewards(video, frames, prompts, rng).loss.float()
        weight = advantages(scores, settings.group_size)
    for transition in transitions:
        prediction = _predict(backbone, sampling, transition.index, transition.before, conditioning)
        mean, deviation = transition_mean(
            sampling, transition.index, transition.before, prediction, settings.noise_level
        )
        log_probability = -((transition.after - mean) / deviation).pow(2).flatten(1).mean(dim=1) / 2
        (-(weight * log_probability).mean() / len(transitions)).backward()
    return scores
