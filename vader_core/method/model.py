"""The model under training: all that travels beside the prompts, as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.method.denoise import Predict, Rollout, Watcher, denoise
from vader_core.method.gradient import NO_GRADIENT, Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.shortcuts import ShortPredictions
from vader_core.method.tuning import Tuning, Untuned
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness, derive_seed
from vader_core.sampler import Plan, Sampler


class Lever(Protocol):
    """What makes predictions cheaper while no graph is recorded."""

    @property
    def exact(self) -> bool:
        """Whether sampling and validation use it too; one that changes results serves training alone."""

    @property
    def holds(self) -> str:
        """What it keeps in memory beside the model, in two words."""

    @property
    def bytes(self) -> int:
        """How much that is."""

    def on(self) -> None:
        """No graph is recorded from now on; does nothing where it is on."""

    def off(self) -> None:
        """A graph is recorded, or the rollout is over; does nothing where it is off."""


@dataclass(frozen=True)
class Stages:
    """The backward pass goes network by network, because they are not on the device together.

    Args:
        rewards_awake: Context in which the rewards stay on the device, for their backward pass.
        decoder_awake: The same for the autoencoder.
    """

    rewards_awake: Callable[[], AbstractContextManager[None]] = nullcontext
    decoder_awake: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass
class Model:
    """A backbone with the sampler, the guidance, what learns, the precision and the levers.

    Args:
        backbone: The video model. Its weights are loaded before anything but :meth:`plan` is called.
        sampler: How noise becomes latents.
        guidance: Classifier-free guidance.
        num_steps: Sampling steps S.
        geometry: Of the run's videos, where every batch has the same.
        tuning: What learns.
        autocast: The precision of the forward pass, as a context.
        checkpointing: Recompute activations of differentiated calls in the backward pass.
        levers: On while no graph is recorded.
        shortcuts: What the no-grad predictions of a training rollout leave out; ``None`` leaves out nothing.
        stages: The backward pass goes in stages; ``None`` is in one piece.
        watch: Called after every step of a rollout that is given no other.
        student: Makes the rollouts of a store in its place; ``None`` is the model itself.
    """

    backbone: Backbone
    sampler: Sampler
    guidance: Guidance
    num_steps: int
    geometry: Geometry | None = None
    tuning: Tuning = field(default_factory=Untuned)
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    checkpointing: bool = False
    levers: tuple[Lever, ...] = ()
    shortcuts: ShortPredictions | None = None
    stages: Stages | None = None
    watch: Watcher | None = None
    student: Student | None = None
    _plans: dict[Geometry, Plan] = field(default_factory=dict, repr=False)

    # -- the verbs ---------------------------------------------------------------------------------------

    def plan(self, geometry: Geometry) -> Plan:
        """The sampler's plan for videos of ``geometry``, kept per geometry.

        Raises:
            VaderError: The sampler cannot follow the backbone's schedule in S steps.
        """
        if geometry not in self._plans:
            schedule = self.backbone.schedule_for(geometry)
            self._plans[geometry] = self.sampler.plan(schedule, self.num_steps, geometry)
        return self._plans[geometry]

    def condition(
        self,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """Encode the texts and make what the denoiser is given, with its unconditional branch.

        Args:
            prompts: B of them.
            geometry: Of the videos.
            rng: For B samples.
            image: First frames in [0, 1] in place of the prompts' own; may carry a graph.
        """
        with self.autocast():
            text = self.backbone.encode_text(prompts)
            return self.backbone.condition(text, prompts, geometry, rng, image=image)

    def predict(
        self,
        latents: Float[Tensor, "b c t h w"],
        timestep: float | Float[Tensor, " b"],
        conditioning: Conditioning,
        *,
        guided: bool = True,
    ) -> Prediction:
        """The prediction at ``timestep``, with a graph where one is recorded.

        Args:
            latents: What the denoiser is given.
            timestep: In the model's own units: one for all samples, or one per sample.
            conditioning: Both branches.
            guided: Mix the branches; otherwise the conditional one alone.
        """
        if torch.is_grad_enabled():
            self.end_levers()
        told = _told(latents, timestep)
        with self.autocast(), self._at(timestep):
            if guided:
                return self.guidance.predict(self.backbone, latents, told, conditioning)
            return self.guidance.conditional(self.backbone, latents, told, conditioning)

    def rollout(
        self,
        conditioning: Conditioning,
        geometry: Geometry,
        rng: Randomness,
        drawn: Drawn = NO_GRADIENT,
        *,
        noise: Float[Tensor, "b c t h w"] | None = None,
        watch: Watcher | None = None,
    ) -> Rollout:
        """From noise to clean latents; the steps of ``drawn`` are differentiated.

        Args:
            conditioning: From :meth:`condition`.
            geometry: Of the videos.
            rng: For noise and stochastic samplers.
            drawn: Steps to differentiate; none by default.
            noise: Standard normal latents; drawn from ``rng`` by default.
            watch: Called after every step.
        """
        if noise is None:
            noise = self.backbone.initial_noise(len(conditioning), geometry, rng)
        if self.shortcuts is not None:
            self.shortcuts.begin()
        try:
            return denoise(self, noise, conditioning, geometry, drawn, rng, watch or self.watch)
        finally:
            self.end_levers()

    def decode(
        self,
        latents: Float[Tensor, "b c t h w"],
        geometry: Geometry,
        frames: Sequence[int] | None = None,
        conditioning: Conditioning | None = None,
    ) -> Float[Tensor, "b f 3 H W"]:
        """The frames of clean latents, RGB nominally in [0, 1], not clamped.

        Args:
            latents: Clean latents.
            geometry: The geometry they were made for.
            frames: Which frames, in this order; all of them by default.
            conditioning: What the latents were made from, for a backbone that wants it before it decodes.
        """
        chosen = None if frames is None else list(frames)
        with self.autocast():
            if conditioning is not None:
                latents = self.backbone.before_decode(latents, conditioning)
            if torch.is_grad_enabled():
                return self.backbone.decode(latents, geometry, chosen)
            # Samples do not see each other, and whole videos are much for a decoder: one at a time.
            parts = [self.backbone.decode(part, geometry, chosen) for part in latents.split(1)]
            return torch.cat(parts)

    @contextmanager
    def making_rollouts(self) -> Iterator[Model]:
        """Within, what makes the rollouts that updates only start from: the student, or the model itself."""
        if self.student is None:
            yield self
            return
        with self.student.of(self) as student:
            yield student

    def base(self) -> AbstractContextManager[None]:
        """Within, the model is the one before tuning."""
        return self.tuning.off()

    # -- contexts ----------------------------------------------------------------------------------------

    @contextmanager
    def without_graph(self, i: int) -> Iterator[Predict]:
        """The one door of the levers: within, no graph is recorded; gives what predicts step ``i``.

        The levers stay on behind the door, until a graph is recorded or the rollout ends: to fold an adapter
        at every step would cost more than it saves.
        """
        for lever in self.levers:
            lever.on()
        with torch.no_grad():
            yield self.predict if self.shortcuts is None else partial(self._predict_shortly, i)

    def _predict_shortly(
        self, i: int, latents: Tensor, timestep: float, conditioning: Conditioning
    ) -> Prediction:
        assert self.shortcuts is not None
        with self.autocast(), self._at(timestep):
            return self.shortcuts.predict(i, latents, _told(latents, timestep), conditioning)

    def _at(self, timestep: float | Tensor) -> AbstractContextManager[None]:
        return nullcontext() if isinstance(timestep, Tensor) else self.backbone.at_timestep(timestep)

    def end_levers(self) -> None:
        """Switch the levers off."""
        for lever in self.levers:
            lever.off()

    @contextmanager
    def training(self, rng: Randomness) -> Iterator[None]:
        """Around one update, forward and backward: recomputation and dropout are on.

        Args:
            rng: Of the batch; the dropout's numbers are a function of it.
        """
        seed = derive_seed(rng.seed, "dropout", *rng.scope, *rng.samples)
        with self.backbone.checkpointing(self.checkpointing), self.tuning.dropout(seed):
            yield

    def whole(self) -> Model:
        """The same model without what only training may leave out: for sampling and validation."""
        kept = tuple(lever for lever in self.levers if lever.exact)
        return replace(self, levers=kept, shortcuts=None, student=None)


class Adapters(Protocol):
    """What a tuning must know to hold a student's adapter; :class:`vader_core.lora.tuning.Lora` does."""

    def with_scale(self, name: str, scale: float) -> AbstractContextManager[None]:
        """Within, the frozen adapter ``name`` counts ``scale`` times."""


@dataclass(frozen=True)
class Student:
    """How the rollouts of a store are made, where another way than the model's own was asked for.

    Args:
        sampler: How noise becomes latents.
        guidance: Scale 1 for a student that was distilled without.
        num_steps: Sampling steps.
        adapter: Name of the frozen adapter that counts meanwhile, beside the trained one; ``None`` is none.
    """

    sampler: Sampler
    guidance: Guidance
    num_steps: int
    adapter: str | None = None
    _plans: dict[Geometry, Plan] = field(default_factory=dict, repr=False, compare=False)

    def like(self, model: Model) -> Model:
        """``model``, sampled the student's way."""
        return replace(
            model,
            sampler=self.sampler,
            guidance=self.guidance,
            num_steps=self.num_steps,
            shortcuts=None,
            student=None,
            _plans=self._plans,
        )

    @contextmanager
    def of(self, model: Model) -> Iterator[Model]:
        """Within, the student's adapter counts; gives ``model``, sampled the student's way."""
        on = (
            nullcontext()
            if self.adapter is None
            else cast("Adapters", model.tuning).with_scale(self.adapter, 1.0)
        )
        with on:
            yield self.like(model)


def _told(latents: Tensor, timestep: float | Tensor) -> Tensor:
    """What the model is told, one number per sample, in the latents' dtype."""
    if isinstance(timestep, Tensor):
        return timestep.to(latents.dtype)
    return torch.full((len(latents),), timestep, device=latents.device, dtype=latents.dtype)
