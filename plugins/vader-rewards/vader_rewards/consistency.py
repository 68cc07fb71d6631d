"""VBench's consistency over time: of the subject by DINO, of the background by CLIP, of the pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vader_core.precision import without_autocast
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, clip

from .clip_towers import build_clip_vision, unit, vision_part
from .loading import architecture, load_model
from .options import BackgroundConsistencyOptions, FlickeringOptions, SubjectConsistencyOptions
from .precision import differentiated
from .preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    centre_cropped,
    clamped,
    normalised,
    short_side_resized,
)
from .weight_files import CLIP_B32, DINO_B16

#: DINO ViT-B/16 (facebook/dino-vitb16), without a pooler.
DINO_PRESETS: dict[str, dict[str, Any]] = {
    "full": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 64,
        "patch_size": 32,
    },
}
_VISION: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "projection_dim": 512,
}
_TEXT: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
#: CLIP ViT-B/32 (openai/clip-vit-base-patch32).
CLIP_B32_PRESETS: dict[str, dict[str, Any]] = {
    "full": {
        "projection_dim": 512,
        "text_config": {**_TEXT, "num_hidden_layers": 12, "projection_dim": 512},
        "vision_config": {
            **_VISION,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
    },
    "tiny": {
        "projection_dim": 24,
        "text_config": {**_TEXT, "num_hidden_layers": 1, "projection_dim": 24},
        "vision_config": {
            **_VISION,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 24,
        },
    },
}


def over_time(features: Float[Tensor, "b f d"]) -> Float[Tensor, " b"]:
    """Mean over the later frames of (cosine to the one before + cosine to the first) / 2, each at least 0.

    Args:
        features: One vector per frame, at least two frames.
    """
    vectors = unit(features.flatten(0, 1)).view(features.shape)
    later = vectors[:, 1:]
    before = (later * vectors[:, :-1]).sum(dim=-1).clamp(min=0.0)
    first = (later * vectors[:, :1]).sum(dim=-1).clamp(min=0.0)
    return ((before + first) / 2).mean(dim=1)


class FrameConsistency(ClipReward):
    """How alike a video's frames are to an image encoder; 0 to 1, loss minus the score."""

    device: torch.device
    dtype: torch.dtype

    @property
    def frames(self) -> FramesNeeded:
        """A clip of two frames or more."""
        return clip(minimum=2)

    @abstractmethod
    def pixels(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        """Frames as the encoder wants them."""

    @abstractmethod
    def encode(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """One vector per frame."""

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """The consistency of each video; prompts play no part."""
        pixels = self.pixels(rearrange(video.to(self.device), "b f c H W -> (b f) c H W"))
        found = differentiated(self.encode, pixels, device=self.device, dtype=self.dtype)
        with without_autocast(self.device):
            return over_time(found.view(*video.shape[:2], -1))


class SubjectConsistency(FrameConsistency):
    """VBench's subject consistency: DINO ViT-B/16's class token; 0 to 1.

    Short side 224, bilinear without antialias, ImageNet's statistics; positions are interpolated for pictures
    that are no square, as transformers does it.
    """

    name: ClassVar[str] = "subject_consistency"
    families: ClassVar[tuple[str, ...]] = ("dino-b16",)

    def __init__(
        self, options: SubjectConsistencyOptions, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        what = f"reward {self.name!r}"
        layout = architecture(options.architecture, DINO_PRESETS, needed_for=what)
        self.device, self.dtype = device, dtype
        self.size = int(layout.get("image_size", 224))
        self.patch = int(layout.get("patch_size", 16))
        self.model: Any = load_model(
            lambda: build_vit(layout),
            options.weights,
            DINO_B16,
            device=device,
            dtype=dtype,
            needed_for=what,
            option=f"-o reward.{self.name}.weights=PATH",
            convert=without_pooler,
        )

    def pixels(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        """Short side 224, cut to whole patches."""
        with without_autocast(frames.device):
            found = short_side_resized(clamped(frames), self.size, mode="bilinear", antialias=False)
            height, width = (side // self.patch * self.patch for side in found.shape[-2:])
            return normalised(found[..., :height, :width], IMAGENET_MEAN, IMAGENET_STD)

    def encode(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """The class token after the last norm."""
        found: Tensor = self.model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        return found


class BackgroundConsistency(FrameConsistency):
    """VBench's background consistency: CLIP ViT-B/32's image embedding; 0 to 1.

    Short side 224, bicubic without antialias, a centre crop, CLIP's statistics.
    """

    name: ClassVar[str] = "background_consistency"
    families: ClassVar[tuple[str, ...]] = ("clip-b32",)

    def __init__(
        self, options: BackgroundConsistencyOptions, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        what = f"reward {self.name!r}"
        layout = architecture(options.architecture, CLIP_B32_PRESETS, needed_for=what)
        self.device, self.dtype = device, dtype
        self.size = int(layout["vision_config"]["image_size"])
        self.model: Any = load_model(
            lambda: build_clip_vision(layout),
            options.weights,
            CLIP_B32,
            device=device,
            dtype=dtype,
            needed_for=what,
            option=f"-o reward.{self.name}.weights=PATH",
            convert=vision_part,
        )

    def pixels(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        """Short side 224, the middle square."""
        with without_autocast(frames.device):
            found = short_side_resized(clamped(frames), self.size, mode="bicubic", antialias=False)
            return normalised(centre_cropped(found, self.size), CLIP_MEAN, CLIP_STD)

    def encode(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """The projected image embedding."""
        found: Tensor = self.model(pixel_values=pixels).image_embeds
        return found


class TemporalFlickering(ClipReward):
    """VBench's temporal flickering: one minus the mean difference of neighbouring frames; 0 to 1.

    Meant for scenes that stand still: any motion lowers it.
    """

    name: ClassVar[str] = "temporal_flickering"

    def __init__(self, options: FlickeringOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device

    @property
    def frames(self) -> FramesNeeded:
        """A clip of two frames or more."""
        return clip(minimum=2)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """One minus the mean absolute difference, in float32; prompts play no part."""
        with without_autocast(video.device):
            frames = clamped(video)
            return 1.0 - (frames[:, 1:] - frames[:, :-1]).abs().flatten(1).mean(dim=1)


def build_vit(layout: Mapping[str, Any]) -> Any:
    """A vision transformer of transformers, without a pooler."""
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**layout), add_pooling_layer=False)


def without_pooler(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors but for a pooler's, which is never used."""
    return {name: value for name, value in tensors.items() if not name.startswith("pooler.")}
