"""Classifier-free guidance: prediction = unconditional + s (conditional - unconditional)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.prediction import Prediction

Scale = float | tuple[float, float]


@dataclass(frozen=True)
class Guidance:
    """How strongly, and in how many passes.

    Args:
        scale: s; or (first, last) for a scale that runs linearly over the latent frames (Stable Video
            Diffusion).
        split: One branch after the other instead of both in one batch: less memory, the same numbers to
            rounding.
        channels: Only the first n channels are mixed, the others are the conditional branch's; ``None`` is
            all.
        embedded: The scale is told to the model, as ``conditioning.shared["guidance"]``; one branch.
    """

    scale: Scale = 1.0
    split: bool = False
    channels: int | None = None
    embedded: bool = False

    @property
    def on(self) -> bool:
        """Whether the unconditional branch is needed; at scale 1 it is skipped."""
        return not self.embedded and self.scale not in (1.0, (1.0, 1.0))

    def weights(self, latents: Tensor) -> Tensor | float:
        """S as a number, or [1, 1, T, 1, 1] for a scale per latent frame."""
        if not isinstance(self.scale, tuple):
            return self.scale
        first, last = self.scale
        steps = torch.linspace(first, last, latents.shape[2], device=latents.device, dtype=latents.dtype)
        return steps.view(1, 1, -1, 1, 1)

    def combine(
        self, conditional: Prediction, unconditional: Prediction, scale: float | None = None
    ) -> Prediction:
        """The guided prediction: the values mixed, the variance the conditional branch's."""
        given, other = conditional.value, unconditional.value
        mixed = other + (self.weights(given) if scale is None else scale) * (given - other)
        if self.channels is not None:
            mixed = torch.cat([mixed[:, : self.channels], given[:, self.channels :]], dim=1)
        return Prediction(mixed, conditional.variance)

    def predict(
        self, backbone: Backbone, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Prediction:
        """The guided prediction, in the latents' dtype."""
        if not self.on and not backbone.further_branches:
            return self.conditional(backbone, latents, timestep, conditioning)
        if self.on:
            conditional, unconditional = self.branches(backbone, latents, timestep, conditioning)
        else:
            conditional = unconditional = self.conditional(backbone, latents, timestep, conditioning)
        further = self.further(backbone, latents, timestep, conditioning)
        return backbone.combine(conditional, unconditional, self, latents, timestep, **further)

    def further(
        self, backbone: Backbone, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> dict[str, Prediction]:
        """The predictions of the backbone's further branches, by name, in the latents' dtype."""
        given = conditioning.conditional_branch
        return {
            name: backbone.predict(
                latents, timestep, replace(given, shared={**given.shared, "branch": name})
            ).to(latents)
            for name in backbone.further_branches
        }

    def conditional(
        self, backbone: Backbone, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Prediction:
        """The conditional branch's prediction alone, in the latents' dtype."""
        given = conditioning.conditional_branch
        if self.embedded:
            given = replace(given, shared={**given.shared, "guidance": self.scale})
        return backbone.predict(latents, timestep, given).to(latents)

    def branches(
        self, backbone: Backbone, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> tuple[Prediction, Prediction]:
        """The conditional and the unconditional prediction, in the latents' dtype."""
        positive, negative = conditioning.conditional_branch, conditioning.unconditional_branch
        if self.split:
            conditional = backbone.predict(latents, timestep, positive)
            unconditional = backbone.predict(latents, timestep, negative)
        else:
            both = Conditioning.cat([positive, negative])
            twice = backbone.predict(torch.cat([latents, latents]), torch.cat([timestep, timestep]), both)
            conditional, unconditional = twice.chunk(2)
        return conditional.to(latents), unconditional.to(latents)


def parse_scale(text: str | float) -> Scale:
    """Read a ``--guidance-scale`` value: a number, or ``FIRST:LAST`` for a scale that runs over the frames.

    >>> parse_scale("1:3")
    (1.0, 3.0)
    """
    first, colon, last = str(text).partition(":")
    try:
        return (float(first), float(last)) if colon else float(first)
    except ValueError:
        raise VaderError(f"--guidance-scale {text!r} is not allowed: use a number, or FIRST:LAST") from None


def format_scale(scale: Scale) -> str:
    """The inverse of :func:`parse_scale`."""
    return ":".join(f"{part:g}" for part in scale) if isinstance(scale, tuple) else f"{scale:g}"
