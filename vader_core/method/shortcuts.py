"""Cheaper predictions in the no-grad steps of a training rollout: guidance or deep features left out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.method.guidance import Guidance
from vader_core.nn.feature_cache import FeatureCache
from vader_core.prediction import Prediction


@dataclass(frozen=True)
class Shortcuts:
    """What the no-grad steps of a training rollout may leave out; all of it changes the result.

    Differentiated predictions, validation and sampling are always whole.

    Args:
        guidance_interval: First and last executed step that is guided; the others are conditional alone
            (Kynkäänniemi et al. 2024, arXiv 2404.07724). ``None`` guides all.
        guidance_cache: The difference of the two branches is computed at every k-th step and reused in
            between (FasterCache, arXiv 2410.19355, without its filter); 1 works it out at each.
        feature_cache: The denoiser's deep part runs at every k-th step, and what it gave is reused in between
            (:class:`vader_core.nn.feature_cache.FeatureCache`); 1 runs it at each.
    """

    guidance_interval: tuple[int, int] | None = None
    guidance_cache: int = 1
    feature_cache: int = 1

    @property
    def on(self) -> bool:
        """Whether anything is left out."""
        return self != Shortcuts()

    def guides(self, i: int) -> bool:
        """Whether step ``i`` is guided."""
        return self.guidance_interval is None or (self.guidance_interval[0] <= i <= self.guidance_interval[1])

    def check(self, guidance: Guidance, num_steps: int) -> None:
        """Refuse what has no effect.

        Raises:
            VaderError: Guidance is off, or there are fewer steps.
        """
        for name, on in (
            ("guidance_interval", self.guidance_interval is not None),
            ("guidance_cache", self.guidance_cache > 1),
        ):
            if on and not guidance.on:
                raise VaderError(f"performance.{name}: guidance is off at scale 1, so leave the option out")
        for name, steps in (("guidance_cache", self.guidance_cache), ("feature_cache", self.feature_cache)):
            if steps > num_steps:
                raise VaderError(f"performance.{name}={steps} with {num_steps} steps: use 1 to {num_steps}")
        if self.feature_cache > 1 and guidance.split:
            raise VaderError(
                "performance.feature_cache and sampler.split_guidance cannot be used together: leave one out"
            )
        if self.guidance_interval is not None:
            first, last = self.guidance_interval
            if not 0 <= first <= last < num_steps:
                raise VaderError(
                    f"performance.guidance_interval={first}-{last} with {num_steps} steps: LO-HI must "
                    f"satisfy 0 <= LO <= HI <= {num_steps - 1}"
                )


#: Every prediction whole.
WHOLE = Shortcuts()


#: The guidance branches, in the order of a guided batch.
_BOTH = ("conditional", "unconditional")


class ShortPredictions:
    """The no-grad predictions of one rollout.

    Args:
        backbone: The model.
        guidance: How the branches are combined.
        shortcuts: What is left out.
    """

    def __init__(self, backbone: Backbone, guidance: Guidance, shortcuts: Shortcuts) -> None:
        self.backbone = backbone
        self.guidance = guidance
        self.shortcuts = shortcuts
        self.cache = FeatureCache() if shortcuts.feature_cache > 1 else None
        self._difference: Tensor | None = None
        self._further: dict[str, Tensor] = {}
        self._refreshed = 0

    def begin(self) -> None:
        """A rollout begins: nothing is kept of the last one."""
        self._difference = None
        if self.cache is not None:
            self.cache.reset()

    def predict(self, i: int, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Prediction:
        """The prediction of step ``i``, in the latents' dtype; steps must come in order."""
        given = (self.backbone, latents, timestep, conditioning)
        if not self.guidance.on or not self.shortcuts.guides(i):
            with self._features(i, _BOTH[:1]):
                return self.guidance.conditional(*given)
        if self._difference is None or i - self._refreshed >= self.shortcuts.guidance_cache:
            with self._features(i, _BOTH):
                conditional, unconditional = self.guidance.branches(*given)
                further = self.guidance.further(*given)
            self._difference, self._refreshed = conditional.value - unconditional.value, i
            self._further = {name: conditional.value - one.value for name, one in further.items()}
            if self.guidance.channels is not None:
                self._difference[:, self.guidance.channels :] = 0.0
        else:
            with self._features(i, _BOTH[:1]):
                conditional = self.guidance.conditional(*given)
        if type(self.backbone).combine is not Backbone.combine:  # a rule of its own
            other = Prediction(conditional.value - self._difference)
            away = {name: Prediction(conditional.value - one) for name, one in self._further.items()}
            return self.backbone.combine(conditional, other, self.guidance, latents, timestep, **away)
        mixed = conditional.value + (self.guidance.weights(latents) - 1) * self._difference
        return Prediction(mixed, conditional.variance)

    def _features(self, i: int, branches: Sequence[str]) -> AbstractContextManager[None]:
        if self.cache is None:
            return nullcontext()
        return self.cache.at(i, branches, self.shortcuts.feature_cache)


def parse_interval(text: str) -> tuple[int, int]:
    """Read a ``performance.guidance_interval`` value.

    >>> parse_interval("1-4")
    (1, 4)
    """
    first, _, last = text.partition("-")
    try:
        return int(first), int(last)
    except ValueError:
        raise VaderError(
            f"performance.guidance_interval={text!r} is not allowed: use LO-HI, e.g. 1-4"
        ) from None
