"""``compression``: the predicted JPEG size of a frame, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import RewardOutput

from .clip_head import ClipHeadReward
from .heads import compression_head
from .options import CompressionOptions
from .weight_files import COMPRESSION_HEAD


class Compression(ClipHeadReward):
    """Minus the predicted JPEG size in kB, so that higher is better; the loss is the size.

    The original reports the size itself, where higher is worse; ``upstream=true`` does too.
    """

    name: ClassVar[str] = "compression"

    def __init__(self, options: CompressionOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(options, compression_head, COMPRESSION_HEAD, device=device, dtype=dtype)
        self.target, self.grad_scale, self.upstream = options.target, options.grad_scale, options.upstream

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """Minus the predicted size in kB."""
        return -super().score_frames(frames, prompts)

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The size, or its distance to a target size."""
        sizes = -scores
        return self.grad_scale * (sizes if self.target is None else (sizes - self.target).abs())

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss; with ``upstream`` the score is the size itself."""
        output = super().__call__(video, prompts, rng)
        return RewardOutput(score=-output.score, loss=output.loss) if self.upstream else output
