"""``pick_score``: PickScore v1 on CLIP ViT-H/14."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from vader_core.device import to_device
from vader_core.precision import without_autocast
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ImageReward, RewardOutput
from vader_core.weights import WeightFile

from .clip_towers import (
    H14_PRESETS,
    build_clip,
    check_vocabulary,
    clip_tokens,
    embedding,
    in_order,
    padded_to_longest,
    unique_texts,
    unit,
)
from .loading import architecture, load_model
from .options import ClipScoreOptions, PickScoreOptions
from .precision import autocast, differentiated
from .preprocessing import clip_processor_pixels
from .weight_files import PICK_SCORE

#: The loss is ``|1 - score / 100|``: 100 is the published model's exp(logit_scale), the score at cosine 1.
FULL_SCORE = 100.0


class PickScore(ImageReward):
    """Which frame people would pick for its prompt, about 20; loss ``|1 - score / 100|``.

    The score is ``exp(logit_scale) * cosine``.

    The original scores every image against the first prompt of the batch; ``upstream=true`` does too.
    """

    name: ClassVar[str] = "pick_score"
    reads_text: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("clip-h14",)
    #: What ``pretrained`` stands for, and the architectures by name.
    file: ClassVar[WeightFile] = PICK_SCORE
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = H14_PRESETS

    def __init__(
        self, options: PickScoreOptions | ClipScoreOptions, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        what = f"reward {self.name!r}"
        layout = architecture(options.architecture, self.presets, needed_for=what)
        model = load_model(
            lambda: build_clip(layout),
            options.weights,
            self.file,
            device=device,
            dtype=torch.float32,  # the scale is read before the weights are rounded
            needed_for=what,
            option=f"-o reward.{self.name}.weights=PATH",
        )
        self.scale = float(model.logit_scale.detach().double().exp())
        self.model: Any = model.to(dtype)
        self.device, self.dtype, self.upstream = device, dtype, options.upstream
        self.size = int(layout["vision_config"]["image_size"])
        self.vocabulary = int(model.config.text_config.vocab_size)

    def pixels(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        """Frames as the image tower wants them."""
        return clip_processor_pixels(frames.to(self.device), self.size)

    def encode_tokens(
        self, input_ids: Int[Tensor, "n l"], attention_mask: Int[Tensor, "n l"]
    ) -> Float[Tensor, "n d"]:
        """Unit text embeddings, without a graph."""
        with torch.no_grad(), autocast(self.device, self.dtype):
            output = self.model.get_text_features(
                input_ids=to_device(input_ids, self.device),
                attention_mask=to_device(attention_mask, self.device),
            )
        return unit(embedding(output))

    def encode_prompts(self, prompts: Sequence[Prompt]) -> Float[Tensor, "n d"]:
        """Unit text embeddings, each text encoded once."""
        texts, index = unique_texts([prompt.text for prompt in prompts])
        tokens = clip_tokens(texts)
        check_vocabulary(tokens, self.vocabulary, needed_for=f"reward {self.name!r}")
        return in_order(self.encode_tokens(*padded_to_longest(tokens)), index)

    def scaled_cosines(
        self, pixels: Float[Tensor, "n 3 h w"], text: Float[Tensor, "n d"]
    ) -> Float[Tensor, " n"]:
        """The score of each image with its own text, in float32."""
        image = differentiated(
            lambda inputs: embedding(self.model.get_image_features(pixel_values=inputs)),
            pixels,
            device=self.device,
            dtype=self.dtype,
        )
        with without_autocast(self.device):
            return self.scale * (unit(image) * text).sum(dim=-1)

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """The score of each frame with its own prompt."""
        return self.scaled_cosines(self.pixels(frames), self.encode_prompts(prompts))

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """``|1 - score / 100|``, as VADER trains with."""
        return (1.0 - scores / FULL_SCORE).abs()

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss of each video for its prompt."""
        return self.compare(video, self.encode_prompts(prompts))

    def compare(self, video: Float[Tensor, "b f 3 H W"], text: Float[Tensor, "b d"]) -> RewardOutput:
        """Score and loss against unit text embeddings, one per video, averaged over the frames.

        With ``upstream`` everything is compared with the first text.
        """
        batch, count = video.shape[:2]
        if self.upstream:
            text = text[:1].expand(batch, -1)
        pixels = self.pixels(rearrange(video, "b f c H W -> (b f) c H W"))
        scores = self.scaled_cosines(pixels, repeat(text, "b d -> (b f) d", f=count)).view(batch, count)
        return RewardOutput(score=scores.mean(dim=1), loss=self.loss_frames(scores).mean(dim=1))
