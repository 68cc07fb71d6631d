"""Cheaper predictions in the no-graph steps of a training rollout: guidance skipped, guidance reused."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vader_core.backbone import Backbone, Conditioning
from vader_core.errors import VaderError
from vader_core.guidance import Guidance


@dataclass(frozen=True)
class Shortcuts:
    """What the no-graph steps of a training rollout may leave out; all of it changes the result.

    Differentiated predictions, validation and sampling are always whole.

    Args:
        guidance_interval: First and last executed step that is guided; the others are conditional alone
            (Kynkäänniemi et al. 2024, arXiv 2404.07724). ``None`` guides all.
        guidance_cache: The difference of the two branches is worked out at every k-th step and reused in
            between (FasterCache, arXiv 2410.19355, without its filter); 1 works it out at each.
    """

    guidance_interval: tuple[int, int] | None = None
    guidance_cache: int = 1

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
                raise VaderError(f"trainer.{name}: guidance is off at scale 1, so leave the option out")
        if self.guidance_cache > num_steps:
            raise VaderError(
                f"trainer.guidance_cache={self.guidance_cache} with {num_steps} steps: use 1 to {num_steps}"
            )
        if self.guidance_interval is not None:
            first, last = self.guidance_interval
            if not 0 <= first <= last < num_steps:
                raise VaderError(
                    f"trainer.guidance_interval={first}-{last} with {num_steps} steps: LO-HI must satisfy "
                    f"0 <= LO <= HI <= {num_steps - 1}"
                )


#: Every prediction whole.
WHOLE = Shortcuts()


class ShortPredictions:
    """The no-graph predictions of one rollout.

    Args:
        guidance: How the branches are combined.
        shortcuts: What is left out.
    """

    def __init__(self, guidance: Guidance, shortcuts: Shortcuts) -> None:
        self.guidance = guidance
        self.shortcuts = shortcuts
        self._difference: Tensor | None = None
        self._refreshed = 0

    def predict(
        self, i: int, backbone: Backbone, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """The prediction of step ``i`` [B, C, T, h, w], in the latents' dtype; steps must come in order."""
        guidance = self.guidance
        if not guidance.on:
            return guidance.predict(backbone, latents, timestep, conditioning)
        if not self.shortcuts.guides(i):
            return guidance.conditional(backbone, latents, timestep, conditioning)
        if self._difference is None or i - self._refreshed >= self.shortcuts.guidance_cache:
            conditional, unconditional = guidance.branches(backbone, latents, timestep, conditioning)
            self._difference, self._refreshed = conditional - unconditional, i
        else:
            conditional = guidance.conditional(backbone, latents, timestep, conditioning)
        return conditional + (guidance.weights(latents) - 1) * self._difference


def parse_interval(text: str) -> tuple[int, int]:
    """Read a ``trainer.guidance_interval`` value.

    >>> parse_interval("1-4")
    (1, 4)
    """
    first, _, last = text.partition("-")
    try:
        return int(first), int(last)
    except ValueError:
        raise VaderError(f"trainer.guidance_interval={text!r} is not allowed: use LO-HI, e.g. 1-4") from None
