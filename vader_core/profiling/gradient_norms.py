"""How much of a reward's gradient each sampling step carries: the measure behind ``--gradient``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from vader_core.assembly.parts import Assembly
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.method.denoise import Predict, Seen, denoise
from vader_core.method.gradient import Drawn
from vader_core.method.model import Model
from vader_core.method.objective import Batch
from vader_core.prediction import Prediction
from vader_core.randomness import Randomness, derive_seed
from vader_core.sampler import Plan, Sampler

#: Standard deviation of ``lora_B`` here; at its start of zero, ``lora_A`` would have no gradient.
SECOND_HALF = 0.02

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StepNorm:
    """One sampling step differentiated on its own.

    Args:
        step: Executed step.
        timestep: What the model is told, in its own units.
        norm: Of the gradient of what learns.
    """

    step: int
    timestep: float
    norm: float


class _Replay:
    """A model that gives the predictions of an earlier rollout, but for the steps that are differentiated."""

    def __init__(self, model: Model, seen: list[Seen]) -> None:
        self.model = model
        self.seen = seen

    @property
    def sampler(self) -> Sampler:
        return self.model.sampler

    def plan(self, geometry: Geometry) -> Plan:
        return self.model.plan(geometry)

    def predict(self, latents: Tensor, timestep: float, conditioning: Conditioning) -> Prediction:
        return self.model.predict(latents, timestep, conditioning)

    @contextmanager
    def without_graph(self, i: int) -> Iterator[Predict]:
        yield lambda latents, timestep, conditioning: self.seen[i].prediction


class GradientNorms:
    """One rollout, and everything that differentiating its steps takes.

    Norms compare steps with each other, not models or rewards.

    Args:
        assembly: Loaded, with the adapter attached and its rewards, if it has any. Without rewards the loss
            is minus the mean brightness of the middle frame, which stands for a reward with a dense gradient.
        batch: What is sampled.
        fill: Give the adapter's second half small numbers, where it stands at its start of zero.
    """

    def __init__(self, assembly: Assembly, batch: Batch, *, fill: bool = True) -> None:
        self.assembly, self.batch = assembly, batch
        self.model = assembly.model.whole()
        self.parameters = self.model.tuning.parameters()
        if fill:
            _fill_second_half(self.parameters, batch.rng.seed)
        self.seen: list[Seen] = []
        with torch.no_grad():
            self.conditioning = self.model.condition(batch.prompts, batch.geometry, batch.rng)
            self.noise = assembly.backbone.initial_noise(len(batch), batch.geometry, batch.rng)
            rollout = self.model.rollout(
                self.conditioning, batch.geometry, batch.rng, noise=self.noise, watch=self.seen.append
            )
        self.final = rollout.latents

    def single_steps(self) -> Iterator[StepNorm]:
        """Each step on its own: the reward's gradient at the clean latents, carried into one prediction."""
        final = self.final.detach().requires_grad_()
        self._loss(final).backward()
        for seen in self.seen:
            with self._differentiating():
                rollout = denoise(
                    _Replay(self.model, self.seen),
                    self.noise,
                    self.conditioning,
                    self.batch.geometry,
                    Drawn(frozenset({seen.index})),
                    self.batch.rng,
                )
                rollout.latents.backward(final.grad)
            yield StepNorm(seen.index, seen.timestep, self._norm())

    def last_steps(self, count: int) -> float:
        """The last ``count`` steps together, as ``--gradient last:COUNT`` differentiates them."""
        total = len(self.seen)
        drawn = Drawn(frozenset(range(total - count, total)))
        with self._differentiating():
            rollout = self.model.rollout(
                self.conditioning, self.batch.geometry, self.batch.rng, drawn, noise=self.noise
            )
            self._loss(rollout.latents).backward()
        return self._norm()

    def _loss(self, latents: Tensor) -> Tensor:
        rewards, batch = self.assembly.rewards, self.batch
        if not rewards.terms:
            return -self.model.decode(latents, batch.geometry, [batch.geometry.num_frames // 2]).mean()
        frames = rewards.choose_frames("middle", batch.geometry.num_frames, batch.rng)
        video = self.model.decode(latents, batch.geometry, frames.union)
        with self.model.autocast():
            return rewards(video, frames, batch.prompts, batch.rng).loss.mean()

    @contextmanager
    def _differentiating(self) -> Iterator[None]:
        for value in self.parameters.values():
            value.grad = None
        with self.model.training(self.batch.rng):
            yield

    def _norm(self) -> float:
        norms = [value.grad.norm() for value in self.parameters.values() if value.grad is not None]
        return float(torch.stack(norms).norm())


@torch.no_grad()
def _fill_second_half(parameters: dict[str, torch.nn.Parameter], seed: int) -> None:
    for name, value in parameters.items():
        if ".lora_B." in name:
            generator = torch.Generator().manual_seed(derive_seed(seed, "gradient norms", name))
            value.copy_(torch.randn(value.shape, generator=generator) * SECOND_HALF)


def batch_of(assembly: Assembly) -> Batch:
    """The first training batch, one micro-step of it."""
    indices = list(range(assembly.config.trainer.batch_size))
    rng = Randomness(assembly.config.trainer.seed, samples=tuple(indices))
    return Batch(assembly.draw_prompts(indices), assembly.geometry, rng)
