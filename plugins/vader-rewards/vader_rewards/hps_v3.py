"""``hps_v3``: Human Preference Score v3 of frame and prompt, on Qwen2-VL-7B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.prompts import Prompt
from vader_core.reward import ImageReward

from .options import HpsV3Options
from .qwen_scorer import Asked, QwenScorer
from .qwen_vl import PRESETS as QWEN
from .qwen_vl import QWEN2_VL_7B
from .weight_files import HPS_V3, HPS_V3_TOKENISER

#: The tuned model's vocabulary ends behind its token.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {**QWEN2_VL_7B, "vocab_size": 151658},
    # Wider and shallower than the others' tiny one: the head's gates make much of what half precision rounds.
    "tiny": {
        **QWEN["tiny"],
        "vocab_size": 263,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 4]},
        "vision_config": {
            **QWEN["tiny"]["vision_config"],
            "depth": 1,
            "embed_dim": 64,
            "hidden_size": 64,
        },
    },
}
#: As many pixels as a frame is to have; sides are multiples of 28.
PIXELS = 256 * 28 * 28


def ranknet(width: int) -> nn.Sequential:
    """The published head: the mean and the logarithm of the spread of a frame's score."""
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.ReLU(),
        nn.Dropout(0.05),
        nn.Linear(1024, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )


class HpsV3(ImageReward):
    """How much people prefer a frame for its prompt, the mean that the model predicts; loss minus the score.

    Args:
        options: The model.
        device: Where it lives.
        dtype: Of its weights.
    """

    name: ClassVar[str] = "hps_v3"
    reads_text: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("qwen2-vl",)

    def __init__(self, options: HpsV3Options, *, device: torch.device, dtype: torch.dtype) -> None:
        asked = Asked(
            name=self.name,
            kind="image",
            pixels=(PIXELS, PIXELS),
            tokens=("<|Reward|>",),
            head=ranknet,
            presets=PRESETS,
            weights=HPS_V3,
            words=HPS_V3_TOKENISER,
        )
        self.scorer = QwenScorer(asked, options, device=device, dtype=dtype)
        self.model = self.scorer.model

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """The mean of the score that the model predicts for each frame."""
        return self.scorer.answers(frames[:, None], [prompt.text for prompt in prompts])[:, 0, 0]
