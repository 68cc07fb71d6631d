"""DiffusionNFT (arXiv 2509.16117): any reward, learned from along the forward process.

Clips of one prompt are sampled with an old policy and compared with each other. Each clip is then noised as
in supervised training, and two predictions are judged by how well they find it back: one leaned from the old
policy's towards the current one, for good clips, and its mirror image, for bad ones. Neither the reward nor
the sampler is differentiated, so both may be anything.

The loss of Advantage Weighted Matching (arXiv 2509.25050) is an option of the same loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.mixture import Mixture
from vader_core.method.model import Model
from vader_core.method.noise_levels import spread_timesteps
from vader_core.method.objective import Backward, Batch, Objective, Processes, StepResult
from vader_core.method.options import NFTOptions
from vader_core.precision import widened
from vader_core.prompts import Prompt
from vader_core.schedule import Schedule
from vader_core.weights import load_tensors, save_tensors

_HERE = "objective.nft"
_OLD = "old_policy.safetensors"
#: Added to a group's standard deviation: clips that are all worth the same teach nothing.
_EPSILON = 1e-4
#: The least that an error is divided by.
_LEAST_ERROR = 1e-5

Key = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class Noised:
    """Clips at one noise level each, and what was predicted there before the update.

    Args:
        timestep: As the schedule counts them, [B].
        latents: x_t, [B, C, T, h, w].
        target: What a perfect model predicts there, [B, C, T, h, w].
        old: The old policy's prediction, [B, C, T, h, w].
        base: The base model's; ``None`` where it has no weight.
    """

    timestep: Float[Tensor, " b"]
    latents: Float[Tensor, "b c t h w"]
    target: Float[Tensor, "b c t h w"]
    old: Float[Tensor, "b c t h w"]
    base: Float[Tensor, "b c t h w"] | None


@dataclass(frozen=True)
class Sampled:
    """One clip of each prompt of a batch.

    Args:
        batch: The prompts, with random numbers of these clips.
        clean: The clips' latents, [B, C, T, h, w].
        conditioning: What they were made from.
        levels: The clips at the noise levels that they are learned at.
        worth: Minus the reward's loss, [B].
        scores: Each reward's score, [B].
    """

    batch: Batch
    clean: Float[Tensor, "b c t h w"]
    conditioning: Conditioning
    levels: tuple[Noised, ...]
    worth: Float[Tensor, " b"]
    scores: dict[str, Float[Tensor, " b"]]


@dataclass(frozen=True)
class Judged:
    """A batch's clips, and how each compares with its group.

    Args:
        clips: One value per clip of a prompt.
        advantages: Of each of ``clips``, in standard deviations of its group, [B].
        spreads: The groups' standard deviations of the worth, one per prompt, [B].
    """

    clips: tuple[Sampled, ...]
    advantages: tuple[Float[Tensor, " b"], ...]
    spreads: Float[Tensor, " b"]


class NFT(Objective):
    """Lean towards the clips above their group's mean, and away from those below it.

    Args:
        config: See ``vader show objective nft``.
    """

    name: ClassVar[str] = "nft"

    def __init__(self, config: NFTOptions | None = None) -> None:
        self.config = config or NFTOptions()
        self.queries = self.config.group
        self.rewards = Mixture(())
        #: What learns, as it was some updates ago; the first batch finds it there.
        self._old: dict[str, Tensor] | None = None

    # -- what it wants -----------------------------------------------------------------------------------

    @property
    def needs(self) -> frozenset[str]:
        """Rewards, with a gradient or without."""
        return frozenset({"scores"})

    def use(self, rewards: Mixture) -> None:
        """Take the rewards."""
        self.rewards = rewards

    def check(self, model: Model, geometry: Geometry) -> None:
        """Refuse an old policy that is the current one."""
        if self.config.loss == "awm" and self.config.beta != NFTOptions().beta:
            raise VaderError(f"{_HERE}.beta belongs to loss=nft: leave it out with loss=awm")
        if not self.config.decay and self.config.loss == "nft":
            raise VaderError(
                f"{_HERE}.decay=0: the old policy would always be the current one, and good and bad clips "
                "could not be told apart: use more than 0 and less than 1, such as 0.5"
            )

    # -- what an update learns from ----------------------------------------------------------------------

    def prepare(self, model: Model, batches: Sequence[Batch], processes: Processes) -> list[Any]:
        """Clips by the old policy, without guidance; their worth, compared over all processes."""
        clips = [
            [self._sampled(model, batch, clip) for clip in range(self.config.group)] for batch in batches
        ]
        told = [
            (_key(prompt), worth)
            for sampled in clips
            for one in sampled
            for prompt, worth in zip(one.batch.prompts, one.worth.cpu().unbind(), strict=True)
        ]
        groups: dict[Key, list[Tensor]] = defaultdict(list)
        for of_process in processes.gather(told):
            for key, worth in of_process:
                groups[key].append(worth)
        # Sorted, because who made which clip must not matter to the last bit either.
        ordered = {key: torch.stack(worth).sort().values for key, worth in groups.items()}
        moments = {key: (worth.mean(), worth.std(correction=0)) for key, worth in ordered.items()}
        return [_judged(sampled, moments) for sampled in clips]

    @torch.no_grad()
    def _sampled(self, model: Model, batch: Batch, clip: int) -> Sampled:
        """The ``clip``-th clip of each prompt: never more at once than the batch has prompts."""
        samples = tuple(index * self.config.group + clip for index in batch.rng.samples)
        batch = Batch(batch.prompts, batch.geometry, replace(batch.rng, samples=samples))
        with model.tuning.using(self._old_policy(model)):
            policy = _unguided(model.whole())
            conditioning = policy.condition(batch.prompts, batch.geometry, batch.rng)
            clean = policy.rollout(conditioning, batch.geometry, batch.rng).latents
            frames = self.rewards.choose_frames("all", batch.geometry.num_frames, batch.rng)
            video = policy.decode(clean, batch.geometry, frames.union, conditioning)
            with model.autocast():
                output = self.rewards(video, frames, batch.prompts, batch.rng)
            levels = [
                self._noised(model, batch, clean, conditioning, i) for i in range(self.config.timesteps)
            ]
        if self.config.base_weight:
            with model.base():
                levels = [replace(one, base=predicted(model, one, conditioning)) for one in levels]
        return Sampled(batch, clean, conditioning, tuple(levels), -output.loss.double(), output.scores)

    def _noised(
        self, model: Model, batch: Batch, clean: Tensor, conditioning: Conditioning, level: int
    ) -> Noised:
        rng = batch.rng.within("noise level", level)
        uniform = 1.0 - self.config.noisiest * (1.0 - rng.uniform("timestep"))
        timestep = spread_timesteps(model.backbone, batch.geometry, uniform).to(clean.device)
        noise = rng.normal("noise", clean.shape[1:], device=clean.device, dtype=clean.dtype)
        schedule = model.backbone.schedule_for(batch.geometry)
        latents = schedule.add_noise(clean, noise, timestep)
        target = schedule.target(clean, noise, timestep)
        given = Noised(timestep, latents, target, latents, None)
        return replace(given, old=predicted(model, given, conditioning))

    def _old_policy(self, model: Model) -> dict[str, Tensor]:
        if self._old is None:
            self._old = model.tuning.snapshot()
        return self._old

    # -- one update --------------------------------------------------------------------------------------

    def step(self, model: Model, prepared: Judged, backward: Backward, update: int) -> StepResult:
        """The loss of each clip at each noise level, sent back one by one: memory does not grow with them."""
        count = len(prepared.clips) * self.config.timesteps
        losses, from_old, from_base = [], [], []
        for clips, advantages in zip(prepared.clips, prepared.advantages, strict=True):
            schedule = model.backbone.schedule_for(clips.batch.geometry)
            for level, noised in enumerate(clips.levels):
                with model.training(clips.batch.rng.within("noise level", level)):
                    current = predicted(model, noised, clips.conditioning)
                    if self.config.loss == "awm":
                        loss = awm_loss(noised, current, advantages, self.config.clip)
                    else:
                        loss = nft_loss(
                            schedule,
                            clips.clean,
                            noised,
                            current,
                            advantages,
                            self.config.beta,
                            self.config.clip,
                        )
                    if self.config.old_weight:
                        moved = _mean_square(widened(current) - widened(noised.old))
                        loss = loss + self.config.old_weight * moved
                    if noised.base is not None:
                        apart = _mean_square(widened(current) - widened(noised.base))
                        loss = loss + self.config.base_weight * apart
                        from_base.append(apart.detach().mean())
                    backward(loss.mean() / count)
                losses.append(loss.detach().mean())
                from_old.append(_mean_square(widened(current.detach()) - widened(noised.old)).mean())
        figures = {"group_spread": prepared.spreads, "old_distance": torch.stack(from_old).mean()}
        if from_base:
            figures["base_distance"] = torch.stack(from_base).mean()
        names = prepared.clips[0].scores
        return StepResult(
            loss=torch.stack(losses).mean(),
            scores={name: torch.cat([clips.scores[name] for clips in prepared.clips]) for name in names},
            figures=figures,
            reward_queries=sum(len(clips.batch) for clips in prepared.clips),
            frames=tuple(range(prepared.clips[0].batch.geometry.num_frames)),
        )

    # -- the old policy ----------------------------------------------------------------------------------

    def decay_at(self, step: int) -> float:
        """How much of itself the old policy keeps after the update of ``step``."""
        ramp = self.config.decay_ramp
        return self.config.decay * (min(1.0, step / ramp) if ramp else 1.0)

    @torch.no_grad()
    def after_update(self, model: Model, step: int) -> None:
        """The old policy follows: old = d old + (1 - d) current."""
        share, current = 1.0 - self.decay_at(step), model.tuning.parameters()
        self._old = {
            name: old.to(current[name].device).lerp_(current[name], share)
            for name, old in self._old_policy(model).items()
        }

    def save(self, folder: Path) -> None:
        """Write the old policy; before the first batch there is none."""
        if self._old is not None:
            save_tensors({name: value.cpu() for name, value in self._old.items()}, folder / _OLD)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        path = folder / _OLD
        self._old = load_tensors(path, needed_for=f"the objective {self.name!r}") if path.is_file() else None


# -- the formula -------------------------------------------------------------------------------------------


def nft_loss(
    schedule: Schedule,
    clean: Float[Tensor, "b c t h w"],
    noised: Noised,
    current: Float[Tensor, "b c t h w"],
    advantages: Float[Tensor, " b"],
    beta: float,
    clip: float,
) -> Float[Tensor, " b"]:
    """Each clip's loss: clip / beta (r |x+ - x_0|^2 / w+ + (1 - r) |x- - x_0|^2 / w-).

    r is the advantage, brought from ±clip to [0, 1]. x± are the clean latents that follow from
    (1 ∓ beta) old ± beta current, and w± the mean absolute error of x±, at least 1e-5, without a gradient.

    Args:
        schedule: Of the noise levels.
        clean: x_0.
        noised: The clips at their noise levels, and the old policy's predictions.
        current: The current predictions, with their graph.
        advantages: In standard deviations.
        beta: How far the two predictions lie from the old one.
        clip: Advantage that counts in full.
    """
    old, now, wanted = widened(noised.old), widened(current), widened(clean)
    good = (advantages.to(wanted) / (2.0 * clip) + 0.5).clamp(0.0, 1.0)
    errors = []
    for lean in (beta, -beta):
        found = clean_from(schedule, widened(noised.latents), old + lean * (now - old), noised.timestep)
        apart = found - wanted
        scale = apart.detach().abs().flatten(1).mean(dim=1).clamp(min=_LEAST_ERROR)
        errors.append(_mean_square(apart) / scale)
    return clip / beta * (good * errors[0] + (1.0 - good) * errors[1])


def awm_loss(
    noised: Noised, current: Float[Tensor, "b c t h w"], advantages: Float[Tensor, " b"], clip: float
) -> Float[Tensor, " b"]:
    """Each clip's loss: A |v - target|^2, the advantage A cut to ±clip.

    Every batch serves one update, before which the policy has not moved: the ratio of the two policies is 1,
    and there is nothing to clip.

    Args:
        noised: The clips at their noise levels, and their targets.
        current: The current predictions, with their graph.
        advantages: In standard deviations.
        clip: Advantage beyond which more does not count.
    """
    apart = _mean_square(widened(current) - widened(noised.target))
    return advantages.to(apart).clamp(-clip, clip) * apart


def clean_from(schedule: Schedule, noised: Tensor, prediction: Tensor, timestep: Tensor) -> Tensor:
    """The x_0 that a prediction stands for.

    Both x_t and what a perfect model predicts are linear in x_0 and the noise; their four coefficients are
    those of a one and a zero, and x_0 solves the two equations.
    """
    one = noised.new_ones(len(noised), *[1] * (noised.ndim - 1), dtype=torch.float64)
    none = torch.zeros_like(one)
    a, b = schedule.add_noise(one, none, timestep), schedule.add_noise(none, one, timestep)
    c, d = schedule.target(one, none, timestep), schedule.target(none, one, timestep)
    determinant = a * d - b * c
    return (d / determinant).to(noised) * noised - (b / determinant).to(noised) * prediction


def predicted(model: Model, noised: Noised, conditioning: Conditioning) -> Tensor:
    """The model's prediction at a noise level, without guidance."""
    return model.predict(noised.latents, noised.timestep, conditioning, guided=False).value


# -- the parts ---------------------------------------------------------------------------------------------


def _unguided(model: Model) -> Model:
    """The same model with its conditional branch alone; a scale that a model is told stays."""
    if model.guidance.embedded:
        return model
    return replace(model, guidance=replace(model.guidance, scale=1.0))


def _key(prompt: Prompt) -> Key:
    """Prompts of one key ask for the same: their clips are one group, whoever made them."""
    return prompt.text, prompt.negative, None if prompt.image is None else str(prompt.image)


def _judged(sampled: Sequence[Sampled], moments: dict[Key, tuple[Tensor, Tensor]]) -> Judged:
    keys = [_key(prompt) for prompt in sampled[0].batch.prompts]
    device = sampled[0].worth.device
    mean = torch.stack([moments[key][0] for key in keys]).to(device)
    spread = torch.stack([moments[key][1] for key in keys]).to(device)
    advantages = tuple((one.worth - mean) / (spread + _EPSILON) for one in sampled)
    return Judged(tuple(sampled), advantages, spread)


def _mean_square(apart: Tensor) -> Tensor:
    return apart.pow(2).flatten(1).mean(dim=1)
