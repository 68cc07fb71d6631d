"""Supervised training: noise a clip, and learn to predict what was mixed in.

One update follows the schedule's forward process: encode the clip, draw a noise level, mix, predict, compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.data.frame_masks import FrameMasks, SeededDraws
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.diffusion_loss import (
    LearnedRange,
    keep_frames,
    min_snr_weight,
    squared_error,
)
from vader_core.method.model import Model
from vader_core.method.noise_levels import spread_timesteps
from vader_core.method.objective import Backward, Batch, Objective, Processes, StepResult
from vader_core.method.options import SupervisedOptions
from vader_core.prediction import Prediction
from vader_core.randomness import derive_seed
from vader_core.schedule import RectifiedFlow, Schedule, VariancePreserving
from vader_core.text import Tensors

_HERE = "objective.supervised"
#: Held-out clips are judged at these shares of what training draws, from little noise to much.
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Encoded:
    """A batch whose clips are latents.

    Args:
        batch: The batch.
        latents: Clean, [B, C, T, h, w], float32.
        first_frames: For a model that starts from an image: [B, 3, H, W] in [0, 1]; ``None`` elsewhere.
    """

    batch: Batch
    latents: Float[Tensor, "b c t h w"]
    first_frames: Float[Tensor, "b 3 H W"] | None = None


class Supervised(Objective):
    """Learn from clips and their captions.

    Args:
        config: See ``vader show objective supervised``.
    """

    name: ClassVar[str] = "supervised"
    queries = 0

    def __init__(self, config: SupervisedOptions | None = None) -> None:
        self.config = config or SupervisedOptions()
        self._masks = FrameMasks(self.config.frame_masks) if self.config.frame_masks else None

    # -- what it wants -----------------------------------------------------------------------------------

    @property
    def needs(self) -> frozenset[str]:
        """Clips."""
        return frozenset({"videos"})

    def defaults(self, backbone: Backbone, num_steps: int) -> Mapping[str, Any]:
        """A rectified flow is trained most often half-way between data and noise."""
        flow = isinstance(backbone.schedule, RectifiedFlow)
        return {"timesteps": "logit_normal" if flow else "uniform"}

    def check(self, model: Model, geometry: Geometry) -> None:
        """Refuse a model that cannot encode, and options that its schedule does not have."""
        backbone, schedule = model.backbone, model.backbone.schedule
        if not backbone.encodes_video:
            raise VaderError(
                f"backbone {backbone.name!r} cannot encode videos, so it cannot learn from --data: choose "
                "another backbone"
            )
        if self._masks is not None and not backbone.takes_frame_masks:
            raise VaderError(
                f"{_HERE}.frame_masks: backbone {backbone.name!r} cannot be given single frames: leave it out"
            )
        if self.config.min_snr is not None:
            if not isinstance(schedule, VariancePreserving):
                raise VaderError(
                    f"{_HERE}.min_snr: backbone {backbone.name!r} follows a {type(schedule).__name__} "
                    "schedule, which has no such weights: leave it out"
                )
            min_snr_weight(torch.ones(1), self.config.min_snr, schedule.prediction_type)
        if self.config.snr_loss and not _learns_variance(schedule):
            raise VaderError(
                f"{_HERE}.snr_loss is for models that predict noise and a variance, and backbone "
                f"{backbone.name!r} does not: leave it out"
            )

    # -- one update --------------------------------------------------------------------------------------

    def prepare(self, model: Model, batches: Sequence[Batch], processes: Processes) -> list[Any]:
        """The clips as latents, without a graph."""
        return [encode(model, batch) for batch in batches]

    def step(self, model: Model, prepared: Encoded, backward: Backward, update: int) -> StepResult:
        """Noise the clips, predict, and send the mean loss back."""
        batch = prepared.batch
        with model.training(batch.rng):
            timestep = self.timesteps(model.backbone, batch)
            mask = self._mask(prepared)
            losses = self.losses(model, prepared, timestep, mask=mask, dropped=self._dropped(batch))
            loss = losses.mean()
            backward(loss)
        return StepResult(loss=loss.detach(), figures={"data_loss": losses.detach()})

    def losses(
        self,
        model: Model,
        encoded: Encoded,
        timestep: Float[Tensor, " b"],
        *,
        mask: Bool[Tensor, "b t"] | None = None,
        dropped: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Each clip's loss, in float32; a function of the batch's random numbers and the arguments.

        Args:
            model: Loaded.
            encoded: The clips.
            timestep: Of each clip, as the schedule counts them.
            mask: Frames that are learned; all by default.
            dropped: Clips whose caption is left out; none by default.
        """
        backbone, batch, clean = model.backbone, encoded.batch, encoded.latents
        schedule = backbone.schedule
        noise = batch.rng.normal("noise", clean.shape[1:], device=clean.device, dtype=clean.dtype)
        timestep = timestep.to(clean.device)
        noised = schedule.add_noise(clean, noise, timestep)
        conditioning = model.condition(batch.prompts, batch.geometry, batch.rng, image=encoded.first_frames)
        if dropped is not None and bool(dropped.any()):
            conditioning = without_captions(conditioning, dropped)
        if mask is not None:
            mask = mask.to(clean.device)
            noised = keep_frames(noised, given_frames(schedule, clean, noise), mask)
            conditioning = backbone.with_frame_mask(conditioning, mask)
        predicted = model.predict(noised, timestep.to(clean.dtype), conditioning, guided=False)
        if _learns_variance(schedule):
            return self._learned_range(schedule, clean, noise, noised, timestep, predicted, mask)
        target = schedule.target(clean, noise, timestep)
        return squared_error(predicted.value, target, mask) * self._weight(schedule, timestep)

    def _learned_range(
        self,
        schedule: Schedule,
        clean: Tensor,
        noise: Tensor,
        noised: Tensor,
        timestep: Tensor,
        predicted: Prediction,
        mask: Tensor | None,
    ) -> Tensor:
        assert isinstance(schedule, VariancePreserving)
        assert predicted.variance is not None
        tables = self._tables(schedule)
        terms = tables.terms(
            clean.float(),
            noise.float(),
            noised.float(),
            timestep.long(),
            epsilon=predicted.value.float(),
            share=predicted.variance.float(),
            mask=mask,
            snr_loss=self.config.snr_loss,
        )
        return terms.mse * self._weight(schedule, timestep) + terms.vb

    def _tables(self, schedule: VariancePreserving) -> LearnedRange:
        if self._kept_tables is None:
            self._kept_tables = LearnedRange.of(schedule.alphas_cumprod, getattr(torch, self.config.tables))
        return self._kept_tables

    _kept_tables: LearnedRange | None = None

    def _weight(self, schedule: Schedule, timestep: Tensor) -> Tensor | float:
        if self.config.min_snr is None or not isinstance(schedule, VariancePreserving):
            return 1.0
        signal = schedule.alphas_cumprod.to(timestep.device)[timestep.long()].float()
        return min_snr_weight(signal / (1 - signal), self.config.min_snr, schedule.prediction_type)

    @torch.no_grad()
    def judge(self, model: Model, batches: Sequence[Batch]) -> Mapping[str, float]:
        """The mean loss at each of five fixed noise levels; no caption is dropped, no frame masked."""
        totals = dict.fromkeys((f"{level:g}" for level in LEVELS), 0.0)
        for batch in batches:
            encoded = encode(model, batch)
            for level in LEVELS:
                uniform = torch.full((len(batch),), level, dtype=torch.float64)
                timestep = self.spread(model.backbone, batch.geometry, uniform)
                totals[f"{level:g}"] += float(self.losses(model, encoded, timestep).sum())
        count = sum(len(batch) for batch in batches)
        return {name: total / count for name, total in totals.items()}

    # -- what is drawn -----------------------------------------------------------------------------------

    def timesteps(self, backbone: Backbone, batch: Batch) -> Float[Tensor, " b"]:
        """A noise level per clip, each from its own sample's stream: [B], as the schedule counts them."""
        return self.spread(backbone, batch.geometry, batch.rng.uniform("timestep"))

    def spread(self, backbone: Backbone, geometry: Geometry, uniform: Tensor) -> Float[Tensor, " b"]:
        """Noise levels for evenly spread numbers in [0, 1)."""
        if self.config.timesteps == "logit_normal":
            uniform = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).sigmoid()
        return spread_timesteps(backbone, geometry, uniform)

    def _dropped(self, batch: Batch) -> Bool[Tensor, " b"]:
        return batch.rng.uniform("caption dropout") < self.config.caption_dropout

    def _mask(self, encoded: Encoded) -> Bool[Tensor, "b t"] | None:
        if self._masks is None:
            return None
        rng, frames = encoded.batch.rng, encoded.latents.shape[2]
        seeds = [derive_seed(rng.seed, *rng.scope, "frame mask", sample) for sample in rng.samples]
        return torch.stack([self._masks.draw(frames, SeededDraws(seed)) for seed in seeds])


# -- the parts ---------------------------------------------------------------------------------------------


@torch.no_grad()
def encode(model: Model, batch: Batch) -> Encoded:
    """The batch's clips as latents; those that were kept from earlier are taken as they are."""
    backbone = model.backbone
    clips = [prompt.video for prompt in batch.prompts]
    if any(clip is None for clip in clips):
        raise VaderError("a prompt without a video cannot be learned from")
    kept = [clip.latents for clip in clips if clip is not None and clip.latents is not None]
    if len(kept) == len(clips):
        frames = [clip.first for clip in clips if clip is not None and clip.first is not None]
        if backbone.needs_image and len(frames) != len(clips):
            raise VaderError("a clip was encoded without its first frame, which this backbone starts from")
        first = torch.stack(frames).to(backbone.device) if backbone.needs_image else None
        return Encoded(batch, torch.stack(kept).to(backbone.device), first)
    pixels = [clip.pixels for clip in clips if clip is not None and clip.pixels is not None]
    if len(pixels) != len(clips):
        raise VaderError("a clip was not read before it was learned from")
    video = torch.stack(pixels).to(backbone.device)
    with model.autocast():
        latents = backbone.encode_video(video, batch.rng.within("posterior"))
    first = video[:, 0] if backbone.needs_image else None
    return Encoded(batch, latents.float(), first)


def given_frames(schedule: Schedule, clean: Tensor, noise: Tensor) -> Tensor:
    """What a frame that is given looks like: exact in a flow, with the noise of timestep 0 else.

    (Open-Sora 1.2 and 1.1.)
    """
    if isinstance(schedule, VariancePreserving):
        return schedule.add_noise(clean, noise, torch.zeros(len(clean), device=clean.device))
    return clean


def without_captions(conditioning: Conditioning, dropped: Bool[Tensor, " b"]) -> Conditioning:
    """The conditioning with the unconditional branch in place of the dropped samples' own.

    Raises:
        VaderError: The backbone has no unconditional branch.
    """
    other = conditioning.unconditional
    if other is None:
        raise VaderError(f"{_HERE}.caption_dropout: this backbone has no unconditional branch: set it to 0")
    mixed: Tensors = {
        name: torch.where(_like(dropped, value), other[name], value) if name in other else value
        for name, value in conditioning.tensors.items()
    }
    return replace(conditioning, tensors=mixed)


def _like(dropped: Tensor, value: Tensor) -> Tensor:
    return dropped.to(value.device).view(-1, *[1] * (value.ndim - 1))


def _learns_variance(schedule: Schedule) -> bool:
    return isinstance(schedule, VariancePreserving) and schedule.variance == "learned_range"
