"""``vjepa``: how predictable a video is to V-JEPA 2, the long-horizon consistency reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, clip

from .loading import load_model, published_architecture
from .masks import PRETRAINING_SETS, Mask, draw_mask
from .options import VjepaOptions
from .precision import autocast, differentiated
from .preprocessing import cropped_imagenet_pixels
from .weight_files import VJEPA, VJEPA_CONFIG

#: V-JEPA 2 ViT-L at 256 pixels: transformers' defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "tiny": {
        "crop_size": 64,
        "frames_per_clip": 4,
        "hidden_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 1,
        "pred_num_hidden_layers": 2,
        "num_pooler_layers": 1,
    },
}
#: The processor's ratio of the short side before the crop to the crop.
CROP_RATIO = 256 / 224


def build_vjepa(layout: Mapping[str, Any]) -> Any:
    """Encoder and predictor."""
    from transformers import VJEPA2Config, VJEPA2Model

    return VJEPA2Model(VJEPA2Config(**layout))


class Vjepa(ClipReward):
    """Minus V-JEPA's masked prediction loss, at most 0.

    Blocks of patches are hidden, what is visible is encoded, and the rest is predicted from it.

    The loss is ``mean |prediction - layer_norm(target features)|^p / p``, averaged over two masks (eight
    small blocks, two large ones, over all frames); the target features come from the whole video, without a
    graph. The masks come from the given rng and are the same for the whole batch.

    transformers' own forward encodes all patches and hides some afterwards, so that the visible ones have
    already seen the hidden ones. Here the hidden patches are taken away before the encoder, as V-JEPA is
    trained.
    """

    name: ClassVar[str] = "vjepa"
    families: ClassVar[tuple[str, ...]] = ("vjepa2",)
    exact_gradient: ClassVar[bool] = False

    def __init__(self, options: VjepaOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        what = "reward 'vjepa'"
        layout = published_architecture(
            options.architecture, options.weights, PRESETS, VJEPA_CONFIG, needed_for=what
        )
        self.model: Any = load_model(
            lambda: build_vjepa(layout),
            options.weights,
            VJEPA,
            device=device,
            dtype=dtype,
            needed_for=what,
            option="-o reward.vjepa.weights=PATH",
        )
        self.device, self.dtype = device, dtype
        self.exponent = options.loss_exponent
        self.tubelet = int(self.model.config.tubelet_size)
        self.num_frames = options.num_frames

    @property
    def frames(self) -> FramesNeeded:
        """The option ``num_frames``, at least one tubelet."""
        return clip(self.num_frames, minimum=self.tubelet)

    def pixels(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f 3 h w"]:
        """A video as the encoder wants it."""
        size = int(self.model.config.crop_size)
        flat = rearrange(video.to(self.device), "b f c H W -> (b f) c H W")
        return rearrange(
            cropped_imagenet_pixels(flat, int(size * CROP_RATIO), size),
            "(b f) c h w -> b f c h w",
            b=len(video),
        )

    def grid(self, num_frames: int) -> tuple[int, int, int]:
        """Patches of a video: time, height, width."""
        side = int(self.model.config.crop_size) // int(self.model.config.patch_size)
        return num_frames // self.tubelet, side, side

    def draw_masks(self, num_frames: int, rng: Randomness) -> list[Mask]:
        """One mask of each set, shared by the batch."""
        return [
            draw_mask(kind, self.grid(num_frames), rng.generator(f"vjepa mask {index}"))
            for index, kind in enumerate(PRETRAINING_SETS)
        ]

    def encode(
        self, pixels: Float[Tensor, "b f 3 h w"], kept: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Features of the kept patches, which see one another alone; of all patches without ``kept``."""
        encoder = self.model.encoder
        hidden = encoder.embeddings(pixels)
        positions = None
        if kept is not None:
            hidden = hidden[:, kept]
            positions = kept.expand(len(hidden), -1)
        for layer in encoder.layer:
            hidden = layer(hidden, positions)[0]
        return encoder.layernorm(hidden)

    def predict(self, visible: Float[Tensor, "b n d"], mask: Mask, mask_index: int) -> Float[Tensor, "b m d"]:
        """The hidden patches' features from the visible ones'."""
        predictor = self.model.predictor
        known = predictor.embeddings.predictor_embeddings(visible)
        tokens = predictor.embeddings.mask_tokens
        asked = tokens[mask_index % len(tokens)].expand(len(visible), len(mask.hidden), -1)
        # The order is of no consequence: positions are rotary and go along.
        hidden = torch.cat([known, asked.to(known.dtype)], dim=1)
        positions = torch.cat([mask.visible, mask.hidden]).expand(len(visible), -1)
        for layer in predictor.layer:
            hidden = layer(hidden, positions)[0]
        return predictor.proj(predictor.layernorm(hidden)[:, known.shape[1] :])

    def _predicted(self, pixels: Tensor, *, mask: Mask, mask_index: int) -> Tensor:
        return self.predict(self.encode(pixels, mask.visible), mask, mask_index)

    def masked_loss(self, pixels: Float[Tensor, "b f 3 h w"], masks: Sequence[Mask]) -> Float[Tensor, " b"]:
        """V-JEPA's loss of each video, averaged over the masks."""
        with torch.no_grad(), autocast(self.device, self.dtype):
            features = self.encode(pixels.detach()).float()
            features = F.layer_norm(features, features.shape[-1:])
        losses = []
        for index, mask in enumerate(masks):
            here = Mask(mask.visible.to(self.device), mask.hidden.to(self.device))
            predicted = differentiated(
                partial(self._predicted, mask=here, mask_index=index),
                pixels,
                device=self.device,
                dtype=self.dtype,
            )
            distance = (predicted - features[:, here.hidden]).abs()
            losses.append((distance**self.exponent).mean(dim=(1, 2)) / self.exponent)
        return torch.stack(losses).mean(dim=0)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """Minus the loss; prompts play no part."""
        count = video.shape[1] // self.tubelet * self.tubelet
        if not count:
            raise VaderError(
                f"reward 'vjepa' needs at least {self.tubelet} frames, not {video.shape[1]}; use "
                "--reward-frames all or a longer video"
            )
        return -self.masked_loss(self.pixels(video[:, :count]), self.draw_masks(count, rng))
