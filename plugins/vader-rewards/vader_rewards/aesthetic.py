"""``aesthetic``: LAION's improved aesthetic predictor on CLIP ViT-L/14."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .clip_head import ClipHeadReward, target_loss
from .heads import aesthetic_head
from .options import AestheticOptions
from .weight_files import AESTHETIC_HEAD


class Aesthetic(ClipHeadReward):
    """How pleasing a frame looks, about 1 to 10; loss ``0.1 * |score - 10|`` as VADER trains with."""

    name: ClassVar[str] = "aesthetic"

    def __init__(
        self, options: AestheticOptions, *, device: torch.device, dtype: torch.dtype, key: str | None = None
    ) -> None:
        super().__init__(options, aesthetic_head, AESTHETIC_HEAD, device=device, dtype=dtype, key=key)
        self.target, self.grad_scale = options.target, options.grad_scale

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The published target form."""
        return target_loss(scores, self.target, self.grad_scale)
