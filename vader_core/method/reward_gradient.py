"""VADER (arXiv 2407.08737): a reward's gradient flows back through denoising steps into what learns.

One update is Algorithm 1 of the paper: sample, decode, score, send the loss back. What may vary is the value
that each verb is given. A rollout may be a fresh one, segment by segment, or a kept one with its last step
taken again from fresh noise; the loss goes back in one piece, or network by network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.denoise import DifferentiatedStep, Rollout
from vader_core.method.frames import check_choice
from vader_core.method.gradient import NO_GRADIENT, Drawn, parse_gradient
from vader_core.method.mixture import FrameChoice, Mixture, MixtureOutput
from vader_core.method.model import Model
from vader_core.method.objective import Backward, Batch, Objective, Processes, StepResult
from vader_core.method.options import RewardGradientOptions
from vader_core.method.segments import Segments, Trajectory, sample_segments
from vader_core.randomness import Randomness

_HERE = "objective.reward_gradient"


@dataclass(frozen=True)
class Score:
    """What a loss is made of.

    Args:
        loss: Mean over the batch, divided by the terms of the update; a scalar with its graph.
        output: What the rewards say.
        distance: Mean squared distance to the base model's prediction, where it was asked for.
    """

    loss: Tensor
    output: MixtureOutput
    distance: Tensor | None = None


@dataclass
class Prepared:
    """A batch, and the rollout that its first update leaves for the further ones."""

    batch: Batch
    kept: Rollout | None = None


class RewardGradient(Objective):
    """Maximise rewards through their gradient.

    Args:
        config: See ``vader show objective reward_gradient``.
    """

    name: ClassVar[str] = "reward_gradient"

    def __init__(self, config: RewardGradientOptions | None = None) -> None:
        self.config = config or RewardGradientOptions()
        self.updates = self.config.inner_updates
        self.queries = max(1, self.config.low_variance) + self.updates - 1
        self.rewards = Mixture(())
        chosen = self.config.gradient_segments
        self.segments = Segments(
            self.config.segments, None if chosen is None else tuple(chosen), self.config.carry_gradient
        )

    # -- what it wants -----------------------------------------------------------------------------------

    @property
    def needs(self) -> frozenset[str]:
        """Rewards with a gradient."""
        return frozenset({"rewards"})

    def use(self, rewards: Mixture) -> None:
        """Take the rewards; refuse a frame choice that none of them would follow."""
        self.rewards = rewards
        given = self.config.reward_frames
        follows = [
            term.name
            for term in rewards.terms
            if term.reward.frames.kind == "image"
            or (term.reward.frames.kind == "clip" and term.reward.frames.count is None)
        ]
        if given is not None and rewards.terms and not follows:
            raise VaderError(
                f"--reward-frames {given} has no effect here: every reward of this run sees frames of its "
                "own choice"
            )

    def defaults(self, backbone: Backbone, num_steps: int) -> Mapping[str, Any]:
        """The backbone says where its gradient is best taken."""
        return {"gradient": backbone.default_gradient(num_steps)}

    def check(self, model: Model, geometry: Geometry) -> None:
        """Refuse steps and segments that do not exist, and pieces that do not fit each other."""
        config, backbone = self.config, model.backbone
        self._gradient().check(model.num_steps)
        self.segments.check()
        check_choice(self._frames(backbone), self.segments.joined_frames(geometry))
        self._check_renoising()
        if self.segments.count > 1 and not (backbone.takes_image or backbone.needs_image):
            raise VaderError(
                f"{_HERE}.segments={config.segments}: backbone {backbone.name!r} cannot start from an image, "
                "so it cannot continue a segment"
            )
        if config.base_weight and model.stages is not None:
            raise VaderError(
                f"performance.offload sends the gradient back network by network, and {_HERE}.base_weight "
                "needs two of them at once: leave one out"
            )

    def _check_renoising(self) -> None:
        """Refuse what does not fit re-noised last steps."""
        config = self.config
        asked = {"low_variance": config.low_variance > 0, "inner_updates": config.inner_updates > 1}
        names = [name for name, on in asked.items() if on]
        if not names:
            return
        if config.gradient not in (None, "last"):
            raise VaderError(
                f"{_HERE}.{names[0]} re-noises the last step, so --gradient {config.gradient} does not fit: "
                "use last"
            )
        clashing = {
            "segments": config.segments > 1,  # only one segment's latents are kept
            "detach_input": config.detach_input,  # fresh noise is detached already
        }
        for name, on in clashing.items():
            if on:
                raise VaderError(f"{_HERE}.{names[0]} and {_HERE}.{name} do not fit: leave one out")

    def _gradient(self) -> Any:
        return parse_gradient(self.config.gradient or "last")

    def _frames(self, backbone: Backbone) -> str:
        """What was asked for, else what is cheap to decode, else any one frame."""
        return self.config.reward_frames or backbone.defaults.reward_frames or "random"

    # -- one update --------------------------------------------------------------------------------------

    def prepare(self, model: Model, batches: Sequence[Batch], processes: Processes) -> list[Any]:
        """Room for the rollout that the further updates start from."""
        return [Prepared(batch) for batch in batches]

    def step(self, model: Model, prepared: Prepared, backward: Backward, update: int) -> StepResult:
        """Sample videos, score them, and send the reward's gradient back into what learns."""
        batch = prepared.batch if update == 0 else prepared.batch.within("inner update", update)
        frames = self._chosen_frames(batch, model.backbone)
        send_back = in_one_piece if model.stages is None else network_by_network
        terms = max(1, self.config.low_variance) if update == 0 else 1
        scores: list[Score] = []
        with model.training(batch.rng):
            for trajectory, rng in self._trajectories(model, prepared, batch, frames):
                score = partial(self._score, model, trajectory, frames, batch, rng, terms)

                scores.append(send_back(model, trajectory, score, backward))
                prepared.kept = prepared.kept or trajectory.last.detached()
        return _result(scores, trajectory.drawn, frames, len(batch))

    def _chosen_frames(self, batch: Batch, backbone: Backbone) -> FrameChoice:
        joined = self.segments.joined_frames(batch.geometry)
        differentiable = self.segments.gradient_frames(batch.geometry)
        words = self._frames(backbone)
        frames = self.rewards.choose_frames(words, joined, batch.rng, differentiable)
        if not set(frames.union) & set(differentiable):
            raise VaderError(
                f"--reward-frames {words}: none of the scored frames lies in a segment that carries "
                f"a gradient; choose others, or set {_HERE}.gradient_segments"
            )
        return frames

    def _trajectories(
        self, model: Model, prepared: Prepared, batch: Batch, frames: FrameChoice
    ) -> Iterator[tuple[Trajectory, Randomness]]:
        """The update's samples, one after the other: each is sent back before the next is made."""
        config = self.config
        if prepared.kept is None and not config.low_variance:
            yield self._sampled(model, batch, frames, self._draw(model)), batch.rng
            return
        if prepared.kept is None:  # DRaFT-LV (Clark et al. 2023): one rollout, n re-noised last steps
            with torch.no_grad():
                sampled = self._sampled(model, batch, frames, lambda _: NO_GRADIENT)
            prepared.kept = sampled.last
            repeats = config.low_variance
        else:
            repeats = 1
        for repeat in range(repeats):
            rng = batch.rng.within("low variance", repeat)
            yield renoised(model, prepared.kept, batch.geometry, frames.union, rng), rng

    def _sampled(
        self, model: Model, batch: Batch, frames: FrameChoice, draw: Callable[[Randomness], Drawn]
    ) -> Trajectory:
        return sample_segments(
            model, batch.prompts, batch.geometry, self.segments, draw, frames.union, batch.rng
        )

    def _draw(self, model: Model) -> Callable[[Randomness], Drawn]:
        def draw(rng: Randomness) -> Drawn:
            chosen = self._gradient().draw(model.num_steps, rng)
            return Drawn(chosen.steps, chosen.ends_at, self.config.detach_input)

        return draw

    def _score(
        self,
        model: Model,
        trajectory: Trajectory,
        frames: FrameChoice,
        batch: Batch,
        rng: Randomness,
        terms: int,
        video: Tensor,
    ) -> Score:
        with model.autocast():
            output = self.rewards(video, frames, batch.prompts, rng)
            loss = output.loss.mean() / terms
        distance = None
        if self.config.base_weight and trajectory.last.record:
            distance = base_distance(model, trajectory.last).mean()
            loss = loss + self.config.base_weight * distance
        return Score(loss, output, distance)


def renoised(
    model: Model, kept: Rollout, geometry: Geometry, frames: Sequence[int], rng: Randomness
) -> Trajectory:
    """The last step once more, differentiated, from the kept clean latents with fresh noise.

    Args:
        model: The model.
        kept: A finished rollout.
        geometry: Of the videos.
        frames: Frames to decode.
        rng: For the fresh noise.
    """
    sampler, plan, clean = model.sampler, model.plan(geometry), kept.latents
    last = plan.num_steps - 1
    fresh = rng.normal("renoise", clean.shape[1:], device=clean.device, dtype=clean.dtype)
    state = sampler.renoise(plan, last, clean, fresh)
    latents = sampler.model_input(plan, last, state)
    told = sampler.told(plan, last, kept.conditioning)
    prediction = model.predict(latents, plan.timesteps[last], told)
    record = (DifferentiatedStep(last, latents.detach(), plan.timesteps[last], told, prediction.value),)
    estimate = sampler.clean(plan, last, state, prediction)
    rollout = Rollout(estimate, kept.conditioning, record)
    return Trajectory(rollout, tuple(frames), geometry, Drawn(frozenset({last})))


def base_distance(model: Model, rollout: Rollout) -> Tensor:
    """Mean squared distance of the recorded predictions to the base model's at the same inputs: [B].

    Up to a factor that depends on the step this is the KL divergence of the two samplers.
    """
    distances = []
    with torch.no_grad(), model.base():
        for step in rollout.record:
            base = model.predict(step.latents, step.timestep, step.conditioning)
            distances.append(base.value)
    apart = [
        (step.prediction - base).pow(2).flatten(1).mean(dim=1)
        for step, base in zip(rollout.record, distances, strict=True)
    ]
    return torch.stack(apart).mean(dim=0)


# -- how a loss goes back ------------------------------------------------------------------------------------


def in_one_piece(
    model: Model, trajectory: Trajectory, score: Callable[[Tensor], Score], backward: Backward
) -> Score:
    """One backward pass through reward, decoder and denoiser."""
    found = score(trajectory.decode(model))
    backward(found.loss)
    return found


def network_by_network(
    model: Model, trajectory: Trajectory, score: Callable[[Tensor], Score], backward: Backward
) -> Score:
    """The same gradient, one network at a time: reward to pixels, decoder to latents, denoiser to adapter.

    The frames are decoded twice, so that the decoder's activations and the reward's never meet.
    """
    assert model.stages is not None
    last, wanted = trajectory.last.latents, len(trajectory.wanted)
    latents = last.detach()
    with torch.no_grad():
        video = trajectory.decode(model, latents)
    video = video.detach().requires_grad_()
    with model.stages.rewards_awake():
        found = score(video)
        backward(found.loss)
    assert video.grad is not None
    ends: list[tuple[Tensor, Tensor | None]] = [
        (piece, video.grad[:, at : at + piece.shape[1]]) for at, piece in _placed(trajectory.earlier)
    ]
    if wanted:
        latents.requires_grad_()
        with model.stages.decoder_awake():
            made_from = trajectory.last.conditioning
            decoded = model.decode(latents, trajectory.geometry, trajectory.wanted, made_from)
            decoded.backward(video.grad[:, -wanted:])
        ends.append((last, latents.grad))
    differentiated = [(end, gradient) for end, gradient in ends if end.requires_grad]
    if len(differentiated) == 1:
        differentiated[0][0].backward(differentiated[0][1])
    else:  # all at once: with a carried gradient the segments share a part of their graph
        torch.autograd.backward(
            [end for end, _ in differentiated], [gradient for _, gradient in differentiated]
        )
    return found


def _placed(pieces: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Each piece of a video with the place of its first frame."""
    at = 0
    for piece in pieces:
        yield at, piece
        at += piece.shape[1]


def _result(scores: list[Score], drawn: Drawn, frames: FrameChoice, size: int) -> StepResult:
    """The mean over an update's trajectories, for the record."""
    names = scores[0].output.scores
    distances = [score.distance.detach() for score in scores if score.distance is not None]
    return StepResult(
        loss=torch.stack([score.loss.detach() for score in scores]).sum(),
        scores={
            name: torch.stack([score.output.scores[name] for score in scores]).mean(dim=0) for name in names
        },
        figures={"base_distance": torch.stack(distances).mean()} if distances else {},
        reward_queries=size * len(scores),
        steps=drawn.steps,
        frames=frames.union,
    )
