"""What the clauses of a backbone work with: the subject, the contract, and the arguments of one call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.precision import wide
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import RectifiedFlow, Schedule, VarianceExploding, VariancePreserving
from vader_core.testing.conformance import (
    Contract,
    Subject,
)
from vader_core.text import Text

#: Largest relative difference between a bfloat16 and a float32 prediction: 8 bits of mantissa, many layers.
BF16 = 0.15

PREDICTIONS = {
    VariancePreserving: ("epsilon", "v"),
    VarianceExploding: ("epsilon", "v"),
    RectifiedFlow: ("velocity",),
}

PROMPTS = (Prompt("a red boat on a river"), Prompt("two dogs run over a field of snow", negative="grey"))


@dataclass
class BackboneSubject(Subject):
    """A backbone under examination; one loaded instance is kept for all clauses.

    Args:
        geometry: The size of video to use; the backbone's small one by default.
        prompts: What it is asked for; two of them.
    """

    flags: ClassVar[tuple[str, ...]] = ("height", "width", "num_frames")

    geometry: GeometryRequest = field(default_factory=GeometryRequest)
    prompts: Sequence[Prompt] = PROMPTS
    _loaded: Backbone | None = None

    @classmethod
    def settings(cls, flags: Mapping[str, Any]) -> dict[str, Any]:
        """The size of video that the command line asks for."""
        return {"geometry": GeometryRequest(flags["height"], flags["width"], flags["num_frames"])}

    def size(self, backbone: Backbone) -> Geometry:
        """The size that was asked for, else the backbone's small one."""
        if self.geometry != GeometryRequest():
            return backbone.resolve_geometry(self.geometry)
        small = backbone.small_geometry
        backbone.validate(small)
        return small

    def loaded(self) -> Backbone:
        """The loaded float32 instance, shared by the clauses: not to be changed."""
        if self._loaded is None:
            self._loaded = self.make()
            self._loaded.load()
        return self._loaded

    def fresh(self, dtype: torch.dtype = torch.float32) -> Backbone:
        """A loaded instance of its own; the shared one is let go, so that one at a time is held."""
        self._loaded = None
        backbone: Backbone = self.make(dtype)
        backbone.load()
        return backbone


BACKBONE = Contract("backbone", BackboneSubject)


# -- what the clauses work with ------------------------------------------------------------------------------


def prompts_of(subject: BackboneSubject, backbone: Backbone) -> tuple[Prompt, ...]:
    """The kit's prompts, without the negative one where no text is read."""
    if backbone.reads_text:
        return tuple(subject.prompts)
    return tuple(replace(prompt, negative=None) for prompt in subject.prompts)


@dataclass(frozen=True)
class Case:
    """Everything one call of the model takes, for a batch of two."""

    backbone: Backbone
    geometry: Geometry
    rng: Randomness
    text: Text
    conditioning: Conditioning
    latents: Tensor
    timestep: Tensor

    def predict(self) -> Tensor:
        """The prediction for the whole batch."""
        conditional = self.conditioning.conditional_branch
        return self.backbone.predict(self.latents, self.timestep, conditional).value

    def rows(self, index: slice) -> Case:
        """The same case for some of its samples."""
        return replace(
            self,
            latents=self.latents[index],
            timestep=self.timestep[index],
            conditioning=self.conditioning[index],
        )


def case_of(
    subject: BackboneSubject,
    backbone: Backbone | None = None,
    *,
    prompts: Sequence[Prompt] | None = None,
    dtype: torch.dtype | None = None,
) -> Case:
    """The arguments of one call, for the subject's loaded instance (or ``backbone``) and its two prompts."""
    backbone = backbone or subject.loaded()
    prompts = prompts or prompts_of(subject, backbone)
    geometry = subject.size(backbone)
    rng = Randomness(seed=5, samples=tuple(range(len(prompts))))
    text = backbone.encode_text(prompts)
    picture = picture_of(backbone, geometry, rng) if backbone.needs_image else None
    conditioning = backbone.condition(text, prompts, geometry, rng, image=picture)
    latents = backbone.initial_noise(len(prompts), geometry, rng)
    if dtype is not None:
        latents = latents.to(dtype)
    timestep = torch.full((len(prompts),), late_timestep(backbone.schedule), device=latents.device)
    return Case(backbone, geometry, rng, text, conditioning, latents, timestep.to(latents.dtype))


def picture_of(backbone: Backbone, geometry: Geometry, rng: Randomness) -> Tensor:
    """First frames [B, 3, H, W] in (0, 1), drawn from ``rng``."""
    shape = (3, geometry.height, geometry.width)
    return rng.normal("picture", shape, device=backbone.device, dtype=wide(backbone.dtype)).sigmoid()


def late_timestep(schedule: Schedule, share: float = 0.3) -> float:
    """What the model is told when ``share`` of the noise levels lie below, in its own units."""
    if isinstance(schedule, VarianceExploding):
        low, high = math.log(schedule.sigma_min), math.log(schedule.sigma_max)
        return 0.25 * (low + share * (high - low))
    if isinstance(schedule, VariancePreserving):
        return float(int(share * (schedule.num_train_timesteps - 1)))
    return share * schedule.num_train_timesteps


def parameters_of(backbone: Backbone) -> dict[str, nn.Parameter]:
    """Every parameter of every module, by role and name."""
    return {
        f"{role}.{name}": parameter
        for role, module in backbone.modules().items()
        for name, parameter in module.named_parameters()
    }
