"""``viclip``: how well a video fits its prompt, by ViCLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vader_core.device import to_device
from vader_core.precision import without_autocast
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, clip

from .clip_towers import check_vocabulary, clip_tokens, in_order, unique_texts, unit
from .loading import architecture, load_model
from .options import ViclipOptions
from .precision import autocast, differentiated
from .preprocessing import imagenet_pixels
from .viclip_model import ViClip
from .weight_files import VICLIP

#: ViCLIP-L/14 of InternVid: 8 frames of 224 pixels, texts of at most 32 tokens.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {
        "embed_dim": 768,
        "vision": {
            "image_size": 224,
            "patch_size": 14,
            "width": 1024,
            "layers": 24,
            "heads": 16,
            "num_frames": 8,
        },
        "text": {"vocab_size": 49408, "context_length": 32, "width": 768, "layers": 12, "heads": 12},
    },
    "tiny": {
        "embed_dim": 24,
        "vision": {"image_size": 64, "patch_size": 32, "width": 32, "layers": 2, "heads": 4, "num_frames": 8},
        "text": {"vocab_size": 49408, "context_length": 32, "width": 32, "layers": 2, "heads": 4},
    },
}


class Viclip(ClipReward):
    """The cosine of video and prompt, -1 to 1; the loss is minus the cosine."""

    name: ClassVar[str] = "viclip"
    reads_text: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("viclip",)

    def __init__(self, options: ViclipOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        what = "reward 'viclip'"
        layout = architecture(options.architecture, PRESETS, needed_for=what)
        self.model: Any = load_model(
            lambda: ViClip(**layout),
            options.weights,
            VICLIP,
            device=device,
            dtype=dtype,
            needed_for=what,
            option="-o reward.viclip.weights=PATH",
        )
        self.device, self.dtype = device, dtype
        self.num_frames = options.num_frames
        self.size = int(layout["vision"]["image_size"])
        self.length = int(layout["text"]["context_length"])
        self.vocabulary = int(layout["text"]["vocab_size"])

    @property
    def frames(self) -> FramesNeeded:
        """The option ``num_frames``."""
        return clip(self.num_frames)

    def pixels(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f 3 h w"]:
        """At most ``num_frames`` frames at an even stride, squashed to a square without antialias."""
        stride = max(1, video.shape[1] // self.num_frames)
        chosen = video.to(self.device)[:, ::stride][:, : self.num_frames]
        flat = rearrange(chosen, "b f c H W -> (b f) c H W")
        square = imagenet_pixels(flat, (self.size, self.size), antialias=False)
        return rearrange(square, "(b f) c h w -> b f c h w", b=len(video))

    def encode_prompts(self, prompts: Sequence[Prompt]) -> Float[Tensor, "b d"]:
        """Unit text embeddings, each text encoded once, without a graph."""
        texts, index = unique_texts([prompt.text for prompt in prompts])
        tokens = clip_tokens(texts, self.length)
        check_vocabulary(tokens, self.vocabulary, needed_for="reward 'viclip'")
        with torch.no_grad(), autocast(self.device, self.dtype):
            return in_order(unit(self.model.text_encoder(to_device(tokens, self.device))), index)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """The cosine of each video with its own prompt."""
        clips = differentiated(
            self.model.vision_encoder, self.pixels(video), device=self.device, dtype=self.dtype
        )
        with without_autocast(self.device):
            return (unit(clips) * self.encode_prompts(prompts)).sum(dim=-1)
