"""A plain policy gradient (Flow-GRPO, arXiv 2505.05470): one on-policy update per batch, no KL term.

Groups of clips of one prompt are sampled with random steps, their rewards are normalised within the group
into advantages, and the log-probability of every random step is weighted with its clip's advantage. The
policy has not moved when the update is made, so the ratio is 1 and there is nothing to clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from vader_core import Batch, Objective, Prediction, State, StepResult, VaderError
from vader_core.method.denoise import Rollout, Seen


@dataclass(frozen=True)
class Sampled:
    """A batch's clips, how they came about, and what they are worth."""

    batch: Batch
    rollout: Rollout
    steps: list[Seen]
    advantages: Tensor
    scores: dict[str, Tensor]
    loss: Tensor


class PolicyGradient(Objective):
    """Raises the probability of the clips that score above their group's mean."""

    name = "policy_gradient"

    class Options(BaseModel):
        """Options of ``policy_gradient``."""

        model_config = ConfigDict(extra="forbid")

        group: int = Field(8, ge=2, description="Clips per prompt; they are compared with each other.")

    def __init__(self, options: Options, *, device: Any = None, dtype: Any = None) -> None:
        self.options = options
        self.queries = options.group

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"scores"})

    def use(self, rewards: Any) -> None:
        self.rewards = rewards

    def check(self, model: Any, geometry: Any) -> None:
        blank = torch.zeros(1, *model.backbone.latent_shape(geometry))
        model.sampler.transition(model.plan(geometry), 0, State(blank), Prediction(blank))

    def prepare(self, model: Any, batches: Sequence[Batch], processes: Any) -> list[Any]:
        return [self._sampled(model, self._grouped(batch)) for batch in batches]

    def _grouped(self, batch: Batch) -> Batch:
        """Every prompt ``group`` times, each clip with random numbers of its own."""
        size = self.options.group
        clips = tuple(index * size + clip for index in batch.rng.samples for clip in range(size))
        prompts = [prompt for prompt in batch.prompts for _ in range(size)]
        return Batch(prompts, batch.geometry, replace(batch.rng, samples=clips))

    @torch.no_grad()
    def _sampled(self, model: Any, batch: Batch) -> Sampled:
        steps: list[Seen] = []
        policy = model.whole()
        conditioning = policy.condition(batch.prompts, batch.geometry, batch.rng)
        rollout = policy.rollout(conditioning, batch.geometry, batch.rng, watch=steps.append)
        frames = self.rewards.choose_frames("all", batch.geometry.num_frames, batch.rng)
        video = policy.decode(rollout.latents, batch.geometry, frames.union)
        with model.autocast():
            output = self.rewards(video, frames, batch.prompts, batch.rng)
        worth = -output.loss.float().view(-1, self.options.group)
        centred = worth - worth.mean(dim=1, keepdim=True)
        advantages = (centred / (worth.std(dim=1, keepdim=True) + 1e-4)).flatten()
        return Sampled(batch, rollout, steps, advantages, output.scores, output.loss.mean())

    def step(self, model: Any, prepared: Sampled, backward: Any, update: int) -> StepResult:
        batch, plan = prepared.batch, model.plan(prepared.batch.geometry)

        def transition(seen: Seen, prediction: Prediction) -> tuple[Tensor, float]:
            moments: tuple[Tensor, float] = model.sampler.transition(
                plan, seen.index, State(seen.latents), prediction
            )
            return moments

        random = [seen for seen in prepared.steps if transition(seen, seen.prediction)[1] > 0.0]
        if not random:
            raise VaderError("policy_gradient: no step is random; use more steps than one")
        for seen in random:  # one step's graph at a time: memory does not grow with their number
            with model.training(batch.rng):
                told = (seen.latents, seen.timestep, prepared.rollout.conditioning)
                mean, deviation = transition(seen, model.predict(*told))
                squares = ((seen.after - mean) / deviation).pow(2).flatten(1).mean(dim=1)
                backward((prepared.advantages * squares).mean() / 2 / len(random))
        return StepResult(prepared.loss.detach(), prepared.scores, reward_queries=len(batch))
