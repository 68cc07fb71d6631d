"""``hps``: Human Preference Score v2 on open_clip's ViT-H-14."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vader_core.device import to_device
from vader_core.errors import MissingDependencyError
from vader_core.precision import without_autocast
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ImageReward, RewardOutput

from .clip_towers import check_vocabulary, clip_tokens, in_order, unique_texts, unit
from .loading import architecture, load_model
from .options import HpsOptions
from .precision import autocast, differentiated
from .preprocessing import clip_pixels
from .weight_files import HPS

#: open_clip's ViT-H-14: 686 tensors, 986,109,441 parameters.
VIT_H_14: dict[str, Any] = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
}
PRESETS = {
    "full": VIT_H_14,
    "tiny": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 32, "head_width": 8, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
    },
}


def build_open_clip(layout: Mapping[str, Any]) -> Any:
    """Both towers of an open_clip model.

    Raises:
        MissingDependencyError: open_clip_torch is not installed.
    """
    try:
        from open_clip.model import CLIP
    except ImportError as error:
        raise MissingDependencyError("open_clip", "reward 'hps'", "pip install open_clip_torch") from error
    return CLIP(layout["embed_dim"], dict(layout["vision_cfg"]), dict(layout["text_cfg"]))


class Hps(ImageReward):
    """How well people would like a frame for its prompt, about 0.2 to 0.35; loss ``1 - score``.

    The score is the cosine of frame and prompt.

    The original pairs images and prompts one to one, so that with one prompt only the first frame counts;
    ``upstream=true`` does too.
    """

    name: ClassVar[str] = "hps"
    reads_text: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("clip-h14",)

    def __init__(
        self,
        options: HpsOptions,
        *,
        device: torch.device,
        dtype: torch.dtype,
        key: str = "reward.hps",
    ) -> None:
        what = "reward 'hps'"
        layout = architecture(options.architecture, PRESETS, needed_for=what)
        self.model: Any = load_model(
            lambda: build_open_clip(layout),
            options.weights,
            HPS[options.version],
            device=device,
            dtype=dtype,
            needed_for=what,
            option=f"-o {key}.weights=PATH",
        )
        self.device, self.dtype, self.upstream = device, dtype, options.upstream
        self.size = int(layout["vision_cfg"]["image_size"])
        self.length = int(layout["text_cfg"]["context_length"])
        self.vocabulary = int(layout["text_cfg"]["vocab_size"])

    def towers(self) -> list[nn.Module]:
        """The image tower."""
        return [self.model.visual]

    def pixels(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        """Frames as the image tower wants them."""
        return clip_pixels(frames.to(self.device), self.size)

    def encode_tokens(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n d"]:
        """Unit text embeddings, without a graph."""
        with torch.no_grad(), autocast(self.device, self.dtype):
            return unit(self.model.encode_text(to_device(tokens, self.device)))

    def encode_prompts(self, prompts: Sequence[Prompt]) -> Float[Tensor, "n d"]:
        """Unit text embeddings, each text encoded once."""
        texts, index = unique_texts([prompt.text for prompt in prompts])
        tokens = clip_tokens(texts, self.length)
        check_vocabulary(tokens, self.vocabulary, needed_for="reward 'hps'")
        return in_order(self.encode_tokens(tokens), index)

    def cosines(self, pixels: Float[Tensor, "n 3 h w"], text: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The cosine of each image with its own text, in float32."""
        image = differentiated(self.model.encode_image, pixels, device=self.device, dtype=self.dtype)
        with without_autocast(self.device):
            return (unit(image) * text).sum(dim=-1)

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """The cosine of each frame with its own prompt."""
        return self.cosines(self.pixels(frames), self.encode_prompts(prompts))

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """``1 - score``, as VADER trains with."""
        return 1.0 - scores

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss of each video for its prompt."""
        return self.compare(video, self.encode_prompts(prompts))

    def compare(self, video: Float[Tensor, "b f 3 H W"], text: Float[Tensor, "b d"]) -> RewardOutput:
        """Score and loss against unit text embeddings, one per video, averaged over the frames.

        With ``upstream`` image i of the flattened batch is compared with text i, and the rest is not seen.
        """
        count = video.shape[1]
        frames = rearrange(video, "b f c H W -> (b f) c H W")
        if self.upstream:
            frames, count = frames[: len(text)], 1
        cosines = self.cosines(self.pixels(frames), repeat(text, "b d -> (b f) d", f=count))
        scores = cosines.view(-1, count)
        return RewardOutput(score=scores.mean(dim=1), loss=self.loss_frames(scores).mean(dim=1))
