"""The training step, as the paper's Algorithm 1 reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.method.denoise import base_distance, denoise
from vader_core.method.gradient import NO_GRADIENT, Drawn
from vader_core.method.mixture import FrameChoice, Mixture, MixtureOutput
from vader_core.method.segments import rollout_video
from vader_core.method.settings import StepSettings
from vader_core.performance.offload import Offload
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.text import Text


@dataclass(frozen=True)
class Kept:
    """A rollout that is kept for further updates.

    Args:
        latents: Clean latents [B, C, T, h, w], detached.
        conditioning: What they were made from.
    """

    latents: Tensor
    conditioning: Conditioning


@dataclass(frozen=True)
class StepResult:
    """What a step reports.

    Args:
        loss: Mean loss over the batch, detached.
        scores: Each reward's score [B], detached.
        base_distance: Mean squared distance to the base prediction, where it was asked for.
        steps: Differentiated steps of the last segment.
        frames: Video frames that were decoded for the rewards.
        reward_queries: Videos that were scored.
        kept: The rollout, for :func:`reward_gradient_step` to differentiate its last step again.
    """

    loss: Tensor
    scores: dict[str, Tensor]
    base_distance: Tensor | None
    steps: frozenset[int]
    frames: tuple[int, ...]
    reward_queries: int
    kept: Kept | None = None


def _backward(loss: Tensor) -> None:
    loss.backward()


def reward_gradient_step(  # noqa: PLR0913 - the parts of a step
    backbone: Backbone,
    rewards: Mixture,
    prompts: Sequence[Prompt],
    settings: StepSettings,
    rng: Randomness,
    *,
    backward: Callable[[Tensor], None] = _backward,
    adapter_off: Callable[[], AbstractContextManager[None]] = nullcontext,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    kept: Kept | None = None,
) -> StepResult:
    """Sample videos, score them, and send the reward's gradient back into the LoRA.

    Args:
        backbone: A loaded backbone with a LoRA attached.
        rewards: What to maximise.
        prompts: B of them.
        settings: What the step does.
        rng: This micro-step's random numbers, for B samples.
        backward: Called with the mean loss; may scale it.
        adapter_off: Context in which the model is the base model; needed where ``base_weight`` is not 0.
        autocast: Context of the forward pass.
        kept: An earlier step's rollout for the same prompts: it is re-noised and its last step differentiated
            in place of a rollout of this step's own.
    """
    with autocast():
        text = backbone.encode_text(prompts)
        frames = rewards.choose_frames(
            settings.reward_frames, settings.joined_frames, rng, settings.gradient_frames
        )
        if not set(frames.union) & set(settings.gradient_frames):
            raise VaderError(
                f"--reward-frames {settings.reward_frames}: none of the scored frames lies in a segment "
                "that carries "
                "a gradient; choose others, or set trainer.gradient_segments"
            )
        if kept is not None:
            return _renoised_steps(
                backbone, rewards, prompts, settings, frames, rng, backward, autocast, kept, 1
            )
        if settings.low_variance:
            return _low_variance_step(
                backbone, rewards, prompts, text, settings, frames, rng, backward, autocast
            )
        if settings.offload is not None:
            return _staged_step(
                backbone, rewards, prompts, text, settings, settings.offload, frames, rng, backward
            )
        video, rollout, conditioning, drawn = rollout_video(backbone, prompts, text, settings, frames, rng)
        output = rewards(video, frames, prompts, rng)
        loss = output.loss.mean()
        distance = None
        if settings.base_weight and rollout.record:
            with adapter_off():
                distance = base_distance(backbone, settings.sampling, rollout, conditioning).mean()
            loss = loss + settings.base_weight * distance
    with backbone.checkpointing(settings.checkpointing):
        backward(loss)
    return StepResult(
        loss=loss.detach(),
        scores=output.scores,
        base_distance=None if distance is None else distance.detach(),
        steps=drawn.steps,
        frames=frames.union,
        reward_queries=len(prompts),
        kept=Kept(rollout.latents.detach(), conditioning),
    )


def _staged_step(  # noqa: PLR0913 - the parts of a step
    backbone: Backbone,
    rewards: Mixture,
    prompts: Sequence[Prompt],
    text: Text,
    settings: StepSettings,
    offload: Offload,
    frames: FrameChoice,
    rng: Randomness,
    backward: Callable[[Tensor], None],
) -> StepResult:
    """The same gradient, one network at a time: reward to pixels, decoder to latents, denoiser to adapter.

    The frames are decoded twice, so that the decoder's activations and the reward never meet.
    """
    sampling, geometry, wanted = settings.sampling, settings.geometry, list(frames.union)
    drawn = settings.gradient.draw(sampling.plan.num_steps, rng)
    drawn = Drawn(drawn.steps, drawn.ends_at, settings.detach_input)
    with backbone.checkpointing(settings.checkpointing):
        conditioning = backbone.condition(text, prompts, geometry, rng)
        noise = backbone.initial_noise(len(prompts), geometry, rng)
        rollout = denoise(backbone, sampling, noise, conditioning, drawn, rng, settings.shortcuts)
        latents = rollout.latents.detach()
        with torch.no_grad():
            video = backbone.decode(latents, geometry, wanted)
        video.requires_grad_()
        with offload.rewards_awake():
            output = rewards(video, frames, prompts, rng)
            loss = output.loss.mean()
            backward(loss)
        latents.requires_grad_()
        with offload.autoencoder.awake():
            backbone.decode(latents, geometry, wanted).backward(video.grad)
        rollout.latents.backward(latents.grad)
    return StepResult(
        loss=loss.detach(),
        scores=output.scores,
        base_distance=None,
        steps=drawn.steps,
        frames=frames.union,
        reward_queries=len(prompts),
    )


def _low_variance_step(  # noqa: PLR0913 - the step's own arguments, with what it has worked out
    backbone: Backbone,
    rewards: Mixture,
    prompts: Sequence[Prompt],
    text: Text,
    settings: StepSettings,
    frames: FrameChoice,
    rng: Randomness,
    backward: Callable[[Tensor], None],
    autocast: Callable[[], AbstractContextManager[None]],
) -> StepResult:
    """DRaFT-LV (Clark et al. 2023): one rollout, n re-noised last steps, the mean of their gradients."""
    sampling, geometry = settings.sampling, settings.geometry
    with torch.no_grad():
        conditioning = backbone.condition(text, prompts, geometry, rng)
        noise = backbone.initial_noise(len(prompts), geometry, rng)
        rollout = denoise(backbone, sampling, noise, conditioning, NO_GRADIENT, rng, settings.shortcuts)
    kept = Kept(rollout.latents, conditioning)
    return _renoised_steps(
        backbone, rewards, prompts, settings, frames, rng, backward, autocast, kept, settings.low_variance
    )


def _renoised_steps(  # noqa: PLR0913 - the step's own arguments, with what it has worked out
    backbone: Backbone,
    rewards: Mixture,
    prompts: Sequence[Prompt],
    settings: StepSettings,
    frames: FrameChoice,
    rng: Randomness,
    backward: Callable[[Tensor], None],
    autocast: Callable[[], AbstractContextManager[None]],
    kept: Kept,
    count: int,
) -> StepResult:
    """The mean gradient of ``count`` last steps, each from fresh noise on the kept clean latents.

    Each term is backpropagated on its own, so that memory does not grow with their number.
    """
    sampling, geometry, clean = settings.sampling, settings.geometry, kept.latents
    last = sampling.plan.num_steps - 1
    losses: list[Tensor] = []
    outputs: list[MixtureOutput] = []
    for repeat in range(count):
        own = rng.within("low variance", repeat)
        fresh = own.normal("renoise", clean.shape[1:], device=clean.device, dtype=clean.dtype)
        with autocast(), backbone.checkpointing(settings.checkpointing):
            state = sampling.sampler.renoise(sampling.plan, last, clean, fresh)
            latents = sampling.sampler.model_input(sampling.plan, last, state)
            timestep = torch.full((len(latents),), sampling.plan.timesteps[last], device=latents.device)
            timestep = timestep.to(latents.dtype)
            prediction = sampling.guidance.predict(backbone, latents, timestep, kept.conditioning)
            estimate = sampling.sampler.clean(sampling.plan, last, state, prediction)
            video = backbone.decode(estimate, geometry, list(frames.union))
            output = rewards(video, frames, prompts, own)
            loss = output.loss.mean() / count
        with backbone.checkpointing(settings.checkpointing):
            backward(loss)
        losses.append(loss.detach())
        outputs.append(output)
    names = outputs[0].scores
    return StepResult(
        loss=torch.stack(losses).sum(),
        scores={name: torch.stack([output.scores[name] for output in outputs]).mean(dim=0) for name in names},
        base_distance=None,
        steps=frozenset({last}),
        frames=frames.union,
        reward_queries=len(prompts) * count,
        kept=kept,
    )
