"""``vqa_yes``: whether a vision-language model says yes to a question about the video; differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, RewardOutput, clip

from .options import VqaYesOptions
from .qwen_vl import QwenVL
from .weight_files import QWEN2_VL


class VqaYes(ClipReward):
    """The probability of "Yes" against "No" as the answer's first word, 0 to 1; loss minus its logarithm.

    Args:
        options: The question, in which ``{prompt}`` stands for the prompt's text; the model; its pixels.
        device: Where the model lives.
        dtype: Of its weights.
    """

    name: ClassVar[str] = "vqa_yes"
    families: ClassVar[tuple[str, ...]] = ("qwen2-vl",)

    def __init__(self, options: VqaYesOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device = options, device
        self.judge = QwenVL(
            options.architecture,
            options.weights,
            QWEN2_VL,
            what=f"reward {self.name!r}",
            name=self.name,
            pixels=(options.min_pixels, options.max_pixels),
            device=device,
            dtype=dtype,
        )
        self.model = self.judge.model
        self.answers = [self.judge.tokeniser.encode(word)[0] for word in ("Yes", "No")]

    @property
    def frames(self) -> FramesNeeded:
        """A clip of ``num_frames`` frames, or of any length."""
        return clip(self.options.num_frames)

    def margin(self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, " b"]:
        """The logit of yes minus that of no."""
        texts = [self.options.question.replace("{prompt}", prompt.text) for prompt in prompts]
        logits = self.judge.last_logits(video, texts, self.answers)
        return logits[:, 0] - logits[:, 1]

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """The probability of yes."""
        return self.margin(video, prompts).sigmoid()

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """The probability, and minus its logarithm, whose gradient does not vanish where the answer is no."""
        margin = self.margin(video, prompts)
        return RewardOutput(score=margin.sigmoid(), loss=F.softplus(-margin))
