"""The plugin's own model around a golden's weights, and stored numbers in place of drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vader_opensora.image_vae import ImageVAE
from vader_opensora.v11.backbone import OpenSora11
from vader_opensora.v11.options import OpenSora11Options
from vader_opensora.v11.stdit2 import STDiT2

from vader_core.builtin.samplers.iddpm import IDDPM
from vader_core.builtin.samplers.options import IDDPMOptions
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.randomness import Randomness

CONDITIONS = {"height": "height", "width": "width", "ratio": "ar", "num_frames": "num_frames", "fps": "fps"}
#: Only a key of the plan here: the schedule is the same at every size.
GEOMETRY = Geometry(32, 48, 4, 8.0)


@dataclass(frozen=True)
class Stored(Randomness):
    """Gives stored noise, step by step, whatever it is asked for."""

    noises: Sequence[Tensor] = field(default_factory=tuple)

    def normal(self, purpose: str, shape: Sequence[int], **_: Any) -> Tensor:
        """The noise of the step that ``purpose`` names."""
        found = self.noises[int(purpose.removeprefix("step "))]
        assert found.shape[1:] == torch.Size(shape)
        return found


def stored(noises: Sequence[Tensor]) -> Stored:
    return Stored(0, samples=tuple(range(len(noises[0]))), noises=noises)


def model_of(
    denoiser: STDiT2,
    num_steps: int,
    scale: float,
    channels: int | None,
    autoencoder: ImageVAE | None = None,
    *,
    table_dtype: str = "float32",
) -> Model:
    """The method's model; nothing of the backbone but what is given here is used."""
    backbone = OpenSora11(
        OpenSora11Options(weights="random"), device=torch.device("cpu"), dtype=torch.float32
    )
    backbone.denoiser = denoiser
    if autoencoder is not None:
        backbone.autoencoder = autoencoder
    sampler = IDDPM(IDDPMOptions(table_dtype=table_dtype))
    return Model(backbone, sampler, Guidance(scale, channels=channels), num_steps, GEOMETRY)


def conditioning_of(given: dict[str, Tensor], denoiser: STDiT2, **frames: Tensor) -> Conditioning:
    """Both branches: the golden's text, and the null text under its mask."""
    text = given["y"][:, 0]
    tensors = {"text": text, "mask": given["mask"], **frames}
    tensors |= {name: given[official] for name, official in CONDITIONS.items()}
    null = denoiser.y_embedder.y_embedding.expand_as(text)
    shared = {"size": (float(given["height"][0]), float(given["width"][0])), "text_length": None}
    return Conditioning(tensors, tensors | {"text": null}, shared)


def with_joining_noise(
    start: Tensor, mask: Tensor, noises: Sequence[Tensor], num_steps: int, sampler: IDDPM, model: Model
) -> Tensor:
    """Initial noise in which each frame that joins later holds the noise that upstream drew at that step."""
    first = sampler.first_steps(model.plan(GEOMETRY), mask)
    start = start.clone()
    for sample, frame in (first < num_steps).nonzero().tolist():
        step = num_steps - 1 - int(first[sample, frame])
        start[sample, :, frame] = noises[step][sample, :, frame]
    return start
