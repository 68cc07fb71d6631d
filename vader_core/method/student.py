"""A student: the same denoiser with a distilled adapter, which makes rollouts in a few steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from vader_core.geometry import Geometry
    from vader_core.method.guidance import Guidance
    from vader_core.method.model import Model
    from vader_core.sampler import Plan, Sampler


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
