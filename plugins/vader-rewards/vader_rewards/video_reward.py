"""``video_reward``: VideoReward of VideoAlign: how people judge look, motion and text of a clip; Qwen2-VL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.device import to_device
from vader_core.errors import VaderError
from vader_core.paths import entered
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, clip
from vader_core.weights import parse_weights

from .loading import companion, read_config
from .options import VideoRewardOptions
from .qwen_scorer import Asked, QwenScorer, rank_scale
from .qwen_vl import PRESETS as QWEN
from .weight_files import VIDEO_REWARD, VIDEO_REWARD_CONFIG, VIDEO_REWARD_TOKENISER

#: Visual quality, motion quality, text alignment: in the order that the question asks for them.
DIMENSIONS = ("VQ", "MQ", "TA")
TOKENS = tuple(f"<|{name}_reward|>" for name in DIMENSIONS)
#: Mean and standard deviation of each over the authors' data, for weights without a model_config.json.
STATISTICS = {"VQ": (3.6757, 2.2476), "MQ": (1.1646, 1.3811), "TA": (2.8105, 2.5121)}
#: The tuned model's vocabulary ends behind its three tokens.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {**QWEN["full"], "vocab_size": 151660},
    "tiny": {**QWEN["tiny"], "vocab_size": 265},
}
#: Fewest and most pixels of a frame after the resize.
PIXELS = (128 * 28 * 28, 256 * 28 * 28)


class VideoReward(ClipReward):
    """The weighted sum of three standardised judgements; loss minus the score.

    Args:
        options: The weights of the three, the frames that it sees, the model.
        device: Where the model lives.
        dtype: Of its weights.
    """

    name: ClassVar[str] = "video_reward"
    reads_text: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("qwen2-vl",)

    def __init__(self, options: VideoRewardOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        self.options = options
        weights = newest(options.weights)
        config = settings(weights)
        asked = Asked(
            name=self.name,
            kind="video",
            pixels=PIXELS,
            tokens=TOKENS,
            head=lambda width: nn.Linear(width, 1, bias=False),
            presets=PRESETS,
            weights=VIDEO_REWARD,
            words=VIDEO_REWARD_TOKENISER,
            lora_scale=_lora_scale(config),
        )
        given = options.model_copy(update={"weights": weights})
        self.scorer = QwenScorer(asked, given, device=device, dtype=dtype)
        self.model = self.scorer.model
        told = config.get("inference_config") or {}
        moments = [
            (told.get(f"{name}_mean", STATISTICS[name][0]), told.get(f"{name}_std", STATISTICS[name][1]))
            for name in DIMENSIONS
        ]
        self.mean, self.deviation = to_device(torch.tensor(moments), device).unbind(dim=1)
        self.counts = to_device(torch.tensor([options.vq, options.mq, options.ta]), device)

    @property
    def frames(self) -> FramesNeeded:
        """A clip of ``num_frames`` frames, or of any length."""
        return clip(self.options.num_frames)

    def judgements(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, "b 3"]:
        """Visual quality, motion quality and text alignment, each in standard deviations from its mean."""
        answers = self.scorer.answers(video, [prompt.text for prompt in prompts])[..., 0]
        return (answers - self.mean) / self.deviation

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """The weighted sum of the three."""
        return (self.judgements(video, prompts) * self.counts).sum(dim=1)


def newest(weights: str) -> str:
    """The file that a folder as the hub lays it out stands for: the latest checkpoint's model.pth."""
    folder = entered(weights)
    if weights in ("pretrained", "random") or not folder.is_dir():
        return weights
    steps = {int(one.name.rpartition("-")[2]): one for one in folder.glob("checkpoint-*[0-9]")}
    found = steps[max(steps)] / Path(VIDEO_REWARD.file).name if steps else None
    return str(found) if found is not None and found.is_file() else weights


def settings(weights: str) -> Mapping[str, Any]:
    """What model_config.json beside the weights, or one folder above, says; empty for ``random``.

    Raises:
        VaderError: It is not there.
    """
    if weights == "random":
        return {}
    what = f"reward {VideoReward.name!r}"
    source = parse_weights(weights)
    if source.kind == "path" and source.path is not None:
        near = source.path if source.path.is_dir() else source.path.parent
        for folder in (near, near.parent):
            if (folder / VIDEO_REWARD_CONFIG.file).is_file():
                return read_config(folder / VIDEO_REWARD_CONFIG.file, needed_for=what)
        raise VaderError(
            f"{what}: no {VIDEO_REWARD_CONFIG.file} beside the weights ({near}) or one folder above; it says "
            f"what the LoRA counts with: take it from hub:{VIDEO_REWARD_CONFIG.repository}"
        )
    hint = "put it there"
    return read_config(companion(weights, VIDEO_REWARD_CONFIG, needed_for=what, hint=hint), needed_for=what)


def _lora_scale(config: Mapping[str, Any]) -> Callable[[int], float] | None:
    lora = config.get("peft_lora_config") or {}
    if "lora_alpha" not in lora:
        return None
    return rank_scale(float(lora["lora_alpha"]), by_root=bool(lora.get("use_rslora", False)))
