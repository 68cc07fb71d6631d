"""``vqa_yes``: whether a vision-language model says yes to a question about the video; differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, RewardOutput, clip

from .loading import published_architecture
from .options import VqaYesOptions
from .qwen_vl import PRESETS, QwenVL, build_qwen, load_qwen, renamed, tokeniser_of, without_specials
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
        what = f"reward {self.name!r}"
        file, config, words = QWEN2_VL
        layout = published_architecture(
            options.architecture, options.weights, PRESETS, config, needed_for=what
        )
        if layout.get("model_type") != "qwen2_vl":
            raise VaderError(
                f"{what}: a model of type {layout.get('model_type')!r} cannot be asked here: use a Qwen2-VL, "
                f"such as hub:{file.repository}"
            )
        self.model: Any = load_qwen(
            lambda: build_qwen(layout),
            options.weights,
            file,
            device=device,
            dtype=dtype,
            needed_for=what,
            option=f"-o reward.{self.name}.weights=PATH",
            convert=renamed,
        )
        self.judge = QwenVL(
            self.model,
            tokeniser_of(options.weights, words, int(layout["vocab_size"]), needed_for=what),
            pixels=(options.min_pixels, options.max_pixels),
            device=device,
            dtype=dtype,
        )
        self.answers = [self.judge.tokeniser.encode(word)[0] for word in ("Yes", "No")]

    @property
    def frames(self) -> FramesNeeded:
        """A clip of ``num_frames`` frames, or of any length."""
        return clip(self.options.num_frames)

    def asked(self, prompt: Prompt) -> str:
        """The question about a clip; a prompt is words, even where it looks like a special token's name."""
        return without_specials(self.options.question.replace("{prompt}", prompt.text))

    def margin(self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, " b"]:
        """The logit of yes minus that of no."""
        logits = self.judge.last_logits(video, [self.asked(prompt) for prompt in prompts], self.answers)
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
