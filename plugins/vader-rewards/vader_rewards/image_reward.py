"""``image_reward``: human preference for frame and prompt, ImageReward v1.0 on BLIP."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vader_core.device import to_device
from vader_core.errors import MissingDependencyError
from vader_core.paths import entered
from vader_core.precision import without_autocast
from vader_core.prompts import Prompt
from vader_core.reward import ImageReward

from .loading import architecture, companion, load_model
from .options import ImageRewardOptions
from .precision import differentiated
from .preprocessing import clip_processor_pixels
from .weight_files import IMAGE_REWARD, IMAGE_REWARD_VOCABULARY

#: The published model: BLIP with ViT-L/16 at 224 pixels, BERT with cross attention, a head of five layers.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {
        "vision": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 16,
            "image_size": 224,
            "layer_norm_eps": 1e-6,
        },
        "text": {
            "vocab_size": 30524,
            "hidden_size": 768,
            "encoder_hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        "head": [1024, 128, 64, 16],
    },
    "tiny": {
        "vision": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 32,
            "image_size": 64,
            "layer_norm_eps": 1e-6,
        },
        "text": {
            "vocab_size": 1000,
            "hidden_size": 32,
            "encoder_hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "head": [24, 16],
    },
}
#: Mean and standard deviation of the head's output over the authors' data.
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
#: Tokens of a prompt, [CLS] and [SEP] among them.
LENGTH = 35
_CLS, _SEP = 101, 102
#: Published names of the image tower, and transformers'.
_VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"^norm\.", "post_layernorm."),
)


class BlipScorer(nn.Module):
    """Both towers of BLIP and the head; a linear one, for the published head has no activations.

    Args:
        vision: Of the image tower, as transformers names its entries.
        text: Of the text tower.
        head: Widths between the text tower's and 1.
    """

    def __init__(self, vision: Mapping[str, Any], text: Mapping[str, Any], head: Sequence[int]) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        self.vision: Any = BlipVisionModel(BlipVisionConfig(**vision))
        self.text: Any = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
        widths = [text["hidden_size"], *head, 1]
        self.head = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))

    def forward(
        self, pixels: Float[Tensor, "n 3 h w"], ids: Int[Tensor, "n l"], mask: Int[Tensor, "n l"]
    ) -> Float[Tensor, "n d"]:
        """The text tower's first state, which has seen the image."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        found: Tensor = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False
        ).last_hidden_state[:, 0]
        return found


class ImageRewardModel(ImageReward):
    """How well people would like a frame for its prompt, in standard deviations, about -2 to 2.

    The loss is minus the score.
    """

    name: ClassVar[str] = "image_reward"
    families: ClassVar[tuple[str, ...]] = ("blip-l16",)

    def __init__(self, options: ImageRewardOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        what = "reward 'image_reward'"
        layout = architecture(options.architecture, PRESETS, needed_for=what)
        self.model: Any = load_model(
            lambda: BlipScorer(**layout),
            options.weights,
            IMAGE_REWARD,
            device=device,
            dtype=dtype,
            needed_for=what,
            option="-o reward.image_reward.weights=PATH",
            convert=renamed,
        )
        self.model.head.float()
        self.device, self.dtype = device, dtype
        self.size, self.words = int(layout["vision"]["image_size"]), int(layout["text"]["vocab_size"])
        self._tokeniser: Any = None
        if options.weights != "random":
            hint = "put bert-base-uncased's vocab.txt there"
            own = options.vocabulary or str(
                companion(options.weights, IMAGE_REWARD_VOCABULARY, needed_for=what, hint=hint)
            )
            self._tokeniser = word_pieces(entered(own))

    def pixels(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        """Frames as the image tower wants them: short side 224 bicubic, centre crop, CLIP's statistics."""
        return clip_processor_pixels(frames.to(self.device), self.size)

    def tokens(self, texts: Sequence[str]) -> tuple[Int[Tensor, "n l"], Int[Tensor, "n l"]]:
        """BERT's ids and their mask, padded to the longest; a text is cut at 35."""
        rows = []
        for text in texts:
            if self._tokeniser is None:  # random weights know no vocabulary: any stable ids will do
                words = [_stable(word, self.words) for word in text.lower().split()]
            else:
                words = self._tokeniser.encode(text, add_special_tokens=False).ids
            first, last = (_CLS, _SEP) if self._tokeniser is not None else (1, 2)
            rows.append([first, *words[: LENGTH - 2], last])
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return to_device(ids, self.device), to_device(mask, self.device)

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """The standardised preference of each frame for its own prompt."""
        ids, mask = self.tokens([prompt.text for prompt in prompts])
        states = differentiated(
            lambda inputs: self.model(inputs, ids, mask),
            self.pixels(frames),
            device=self.device,
            dtype=self.dtype,
        )
        with without_autocast(self.device):
            return (self.model.head(states)[:, 0] - MEAN) / DEVIATION


def _stable(word: str, count: int) -> int:
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return 3 + int.from_bytes(digest, "big") % (count - 3)


def word_pieces(path: Path) -> Any:
    """BERT's uncased tokeniser over a vocab.txt."""
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError as error:
        hint = "pip install tokenizers"
        raise MissingDependencyError("tokenizers", "reward 'image_reward'", hint) from error
    return BertWordPieceTokenizer(str(path), lowercase=True)


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published file's names as :class:`BlipScorer` has them; what is not of it is left out."""
    found: dict[str, Tensor] = {}
    # dropouts stand between the head's linear layers
    places = sorted({int(name.split(".")[2]) for name in tensors if name.startswith("mlp.layers.")})
    for name, value in tensors.items():
        if name.startswith("blip.visual_encoder."):
            own = name.removeprefix("blip.visual_encoder.")
            for pattern, replacement in _VISION:
                own = re.sub(pattern, replacement, own)
            found[f"vision.{own}"] = value
        elif name.startswith("blip.text_encoder."):
            found[f"text.{name.removeprefix('blip.text_encoder.')}"] = value
        elif name.startswith("mlp.layers."):
            place, _, part = name.removeprefix("mlp.layers.").partition(".")
            found[f"head.{places.index(int(place))}.{part}"] = value
    return found
