"""CLIP ViT-L/14's image embedding with a small head on top: what four rewards share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.precision import without_autocast
from vader_core.prompts import Prompt
from vader_core.reward import ImageReward
from vader_core.weights import WeightFile

from .clip_towers import L14_PRESETS, build_clip_vision, unit, vision_part
from .heads import Head
from .loading import architecture, load_model
from .options import HeadOptions
from .precision import differentiated
from .preprocessing import clip_pixels
from .weight_files import CLIP_L14


class ClipHeadReward(ImageReward):
    """Scores frames by ``head(unit image embedding)``.

    Args:
        options: Weights, architecture.
        head: Makes the head.
        head_file: What ``pretrained`` head weights stand for.
        device: Where the models live.
        dtype: Of the image tower; half types run it under autocast. The head is always in float32.
        key: Where a run's options of it stand; ``reward.NAME`` by default.
    """

    families: ClassVar[tuple[str, ...]] = ("clip-l14",)

    def __init__(
        self,
        options: HeadOptions,
        head: Callable[[], Head],
        head_file: WeightFile,
        *,
        device: torch.device,
        dtype: torch.dtype,
        key: str | None = None,
    ) -> None:
        key = key or f"reward.{self.name}"
        what = f"reward {self.name!r}"
        layout = architecture(options.architecture, L14_PRESETS, needed_for=what)
        self.device, self.dtype = device, dtype
        self.tower: Any = load_model(
            lambda: build_clip_vision(layout),
            options.weights,
            CLIP_L14,
            device=device,
            dtype=dtype,
            needed_for=f"{what}, image tower",
            option=f"-o {key}.weights=PATH",
            convert=vision_part,
        )
        head_weights = options.head_weights or ("random" if options.weights == "random" else "pretrained")
        self.head = load_model(
            head,
            head_weights,
            head_file,
            device=device,
            dtype=torch.float32,
            needed_for=f"{what}, head",
            option=f"-o {key}.head_weights=PATH",
        )
        self.size = int(layout["vision_config"]["image_size"])

    def towers(self) -> list[nn.Module]:
        """The image tower."""
        return [self.tower]

    def pixels(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        """Frames as the tower wants them."""
        return clip_pixels(frames.to(self.device), self.size)

    def head_values(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """What the head says of preprocessed pixels, in float32."""
        embeddings = differentiated(
            lambda inputs: self.tower(pixel_values=inputs).image_embeds,
            pixels,
            device=self.device,
            dtype=self.dtype,
        )
        with without_autocast(self.device):
            return self.head(unit(embeddings))

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """The head's value per frame; prompts play no part."""
        return self.head_values(self.pixels(frames))


def target_loss(scores: Float[Tensor, " n"], target: float | None, grad_scale: float) -> Float[Tensor, " n"]:
    """``grad_scale * |score - target|``, or ``-grad_scale * score`` without a target."""
    if target is None:
        return -grad_scale * scores
    return grad_scale * (scores - target).abs()
