"""VADER (arXiv 2407.08737): a reward's gradient flows back through denoising steps into what learns.

One update is Algorithm 1 of the paper: sample, decode, score, send the loss back. What may vary is the value
that each verb is given. A rollout may be a fresh one, segment by segment, or clean latents that are there,
with one step taken again from fresh noise; the loss goes back in one piece, or network by network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.denoise import Rollout
from vader_core.method.frames import check_choice
from vader_core.method.gradient import NO_GRADIENT, Drawn, draws_one, parse_gradient
from vader_core.method.latent_store import LatentStore, Stored
from vader_core.method.mixture import FrameChoice, Mixture
from vader_core.method.model import Model
from vader_core.method.objective import Backward, Batch, Objective, Processes, StepResult
from vader_core.method.options import RewardGradientOptions
from vader_core.method.renoise import renoised
from vader_core.method.segments import Segments, Trajectory, sample_segments
from vader_core.method.send_back import Score, in_one_piece, network_by_network
from vader_core.method.supervised import encode
from vader_core.randomness import Randomness

_HERE = "objective.reward_gradient"


@dataclass
class Prepared:
    """A batch, and the rollout that its updates start from.

    Args:
        batch: What is asked for, with the update's random numbers.
        kept: From a store; else what the first update leaves for the further ones.
        staleness: Optimizer steps since a store's rollout was made.
    """

    batch: Batch
    kept: Rollout | None = None
    staleness: int | None = None


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
        self.store = LatentStore(self.config.store_size, self.config.store_refresh)
        chosen = self.config.gradient_segments
        self.segments = Segments(
            self.config.segments, None if chosen is None else tuple(chosen), self.config.carry_gradient
        )

    # -- what it wants -----------------------------------------------------------------------------------

    @property
    def needs(self) -> frozenset[str]:
        """Rewards with a gradient; clips where they are the store."""
        return frozenset({"rewards", "videos"} if self.config.store == "data" else {"rewards"})

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
        self._check_store(model, geometry)
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
        asked = {
            "store": config.store is not None,
            "low_variance": config.low_variance > 0,
            "inner_updates": config.inner_updates > 1,
        }
        names = [name for name, on in asked.items() if on]
        if not names:
            return
        if config.store is None and config.gradient not in (None, "last"):
            raise VaderError(
                f"{_HERE}.{names[0]} re-noises the last step, so --gradient {config.gradient} does not fit: "
                f"use last, or add -o {_HERE}.store=rollouts, which re-noises any one step"
            )
        clashing = {
            "segments": config.segments > 1,  # only one segment's latents are kept
            "detach_input": config.detach_input,  # fresh noise is detached already
        }
        for name, on in clashing.items():
            if on:
                raise VaderError(f"{_HERE}.{names[0]} and {_HERE}.{name} do not fit: leave one out")

    def _check_store(self, model: Model, geometry: Geometry) -> None:
        """Refuse a store's options without one, and what a store cannot do."""
        config = self.config
        fresh = RewardGradientOptions()
        if config.store is None:
            own = ("store_size", "store_refresh", "direct_align", "discount")
            idle = [name for name in own if getattr(config, name) != getattr(fresh, name)]
            if idle:
                raise VaderError(
                    f"{_HERE}.{idle[0]} belongs to a store of latents, and there is none: add "
                    f"-o {_HERE}.store=rollouts or =data, or leave it out"
                )
            return
        if not draws_one(self._gradient(), model.num_steps):
            raise VaderError(
                f"{_HERE}.store updates at one step, so --gradient {config.gradient} does not fit: use last, "
                "steps:I, random:LO-HI or refl:LO-HI"
            )
        if config.store == "data":
            sized = [
                name
                for name in ("store_size", "store_refresh")
                if getattr(config, name) != getattr(fresh, name)
            ]
            if sized:
                raise VaderError(
                    f"{_HERE}.{sized[0]} is for store=rollouts; the clips of --data are all there"
                )
            if not model.backbone.encodes_video:
                raise VaderError(
                    f"{_HERE}.store=data: backbone {model.backbone.name!r} cannot encode videos: use "
                    "store=rollouts"
                )
        if config.direct_align:
            plan, nothing = model.plan(geometry), Conditioning({})
            random = [i for i in range(plan.num_steps) if model.sampler.needs_noise(plan, i, nothing)]
            if random:
                raise VaderError(
                    f"{_HERE}.direct_align removes noise that is known, and the sampler adds more at step "
                    f"{random[0]}: make its steps deterministic, or leave it out"
                )

    def _gradient(self) -> Any:
        return parse_gradient(self.config.gradient or "last")

    def _frames(self, backbone: Backbone) -> str:
        """What was asked for, else what is cheap to decode, else any one frame."""
        return self.config.reward_frames or backbone.defaults.reward_frames or "random"

    def save(self, folder: Path) -> None:
        """Write the store."""
        self.store.save(folder)

    def load(self, folder: Path) -> None:
        """Read the store."""
        self.store.load(folder)

    # -- one update --------------------------------------------------------------------------------------

    def prepare(self, model: Model, batches: Sequence[Batch], processes: Processes) -> list[Any]:
        """The latents that the updates start from, where there is a store; else room for a rollout."""
        if self.config.store is None:
            return [Prepared(batch) for batch in batches]
        start = self._from_rollouts if self.config.store == "rollouts" else self._from_clips
        return [start(model, batch, micro) for micro, batch in enumerate(batches)]

    @torch.no_grad()
    def _from_rollouts(self, model: Model, batch: Batch, micro: int) -> Prepared:
        """The store's rollout for this step; made now where its turn has come."""
        step = batch.rng.step
        found = self.store.take(step, micro, len(batch))
        if found is None:
            with model.making_rollouts() as maker:
                made = sample_segments(
                    maker, batch.prompts, batch.geometry, Segments(), lambda _: NO_GRADIENT, (), batch.rng
                ).last
            found = self.store.put(step, micro, Stored(batch, made.latents, made.conditioning))
        of = found.batch
        if found.conditioning is None:
            found.conditioning = model.condition(of.prompts, of.geometry, of.rng)
        found.latents = found.latents.to(model.backbone.device)
        kept = Rollout(found.latents, found.conditioning)
        return Prepared(Batch(of.prompts, of.geometry, batch.rng), kept, step - of.rng.step)

    @torch.no_grad()
    def _from_clips(self, model: Model, batch: Batch, micro: int) -> Prepared:
        """The batch's clips, as latents."""
        clips = encode(model, batch)
        conditioning = model.condition(batch.prompts, batch.geometry, batch.rng, image=clips.first_frames)
        return Prepared(batch, Rollout(clips.latents, conditioning))

    def step(self, model: Model, prepared: Prepared, backward: Backward, update: int) -> StepResult:
        """Sample videos, score them, and send the reward's gradient back into what learns."""
        batch = prepared.batch if update == 0 else prepared.batch.within("inner update", update)
        frames = self._chosen_frames(batch, model.backbone)
        send_back = in_one_piece if model.stages is None else network_by_network
        terms = max(1, self.config.low_variance) if update == 0 else 1
        scores: list[Score] = []
        steps: frozenset[int] = frozenset()
        with model.training(batch.rng):
            for trajectory, rng in self._trajectories(model, prepared, batch, frames, terms):
                score = partial(self._score, model, trajectory, frames, batch, rng, terms)
                scores.append(send_back(model, trajectory, score, backward))
                steps |= trajectory.drawn.steps
                prepared.kept = prepared.kept or trajectory.last.detached()
        return _result(scores, steps, frames, len(batch), prepared.staleness)

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
        self, model: Model, prepared: Prepared, batch: Batch, frames: FrameChoice, repeats: int
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
        for repeat in range(repeats):
            rng = batch.rng.within("low variance", repeat)
            (step,) = self._gradient().draw(model.num_steps, rng).steps
            known = config.direct_align
            yield (
                renoised(model, prepared.kept, batch.geometry, frames.union, rng, step, known_noise=known),
                rng,
            )

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
        if self.config.store is not None:
            (step,) = trajectory.drawn.steps
            loss = loss * self.config.discount ** (model.num_steps - 1 - step)
        distance = None
        if self.config.base_weight and trajectory.last.record:
            distance = base_distance(model, trajectory.last).mean()
            loss = loss + self.config.base_weight * distance
        return Score(loss, output, distance)


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


def _result(
    scores: list[Score], steps: frozenset[int], frames: FrameChoice, size: int, staleness: int | None
) -> StepResult:
    """The mean over an update's trajectories, for the record."""
    names = scores[0].output.scores
    distances = [score.distance.detach() for score in scores if score.distance is not None]
    figures = {"base_distance": torch.stack(distances).mean()} if distances else {}
    if staleness is not None:
        figures["staleness"] = torch.tensor(float(staleness))
    return StepResult(
        loss=torch.stack([score.loss.detach() for score in scores]).sum(),
        scores={
            name: torch.stack([score.output.scores[name] for score in scores]).mean(dim=0) for name in names
        },
        figures=figures,
        reward_queries=size * len(scores),
        steps=steps,
        frames=frames.union,
    )
