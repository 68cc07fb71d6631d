"""``rainy`` and ``snowy``: VADER's weather heads on CLIP ViT-L/14."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.weights import WeightFile

from .clip_head import ClipHeadReward, target_loss
from .heads import aesthetic_head
from .options import WeatherOptions
from .weight_files import RAINY_HEAD, SNOWY_HEAD


class _Weather(ClipHeadReward):
    """The probability of a weather, 0 to 1; loss ``|score - 1|``."""

    head_file: ClassVar[WeightFile]

    def __init__(self, options: WeatherOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(options, aesthetic_head, self.head_file, device=device, dtype=dtype)
        self.target, self.grad_scale = options.target, options.grad_scale

    def head_values(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """The sigmoid of the head's value."""
        return super().head_values(pixels).sigmoid()

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The published target form."""
        return target_loss(scores, self.target, self.grad_scale)


class Rainy(_Weather):
    """How rainy a frame looks, 0 to 1."""

    name: ClassVar[str] = "rainy"
    head_file = RAINY_HEAD


class Snowy(_Weather):
    """How snowy a frame looks, 0 to 1."""

    name: ClassVar[str] = "snowy"
    head_file = SNOWY_HEAD
