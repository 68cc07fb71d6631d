"""The CLIP models that rewards stand on: ViT-L/14 and ViT-H/14 of transformers, and their text tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vader_core.errors import MissingDependencyError, VaderError

#: CLIP ViT-L/14 (openai/clip-vit-large-patch14): 427,616,513 parameters.
CLIP_L14: dict[str, Any] = {
    "projection_dim": 768,
    "text_config": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
}
#: CLIP ViT-H/14 (laion/CLIP-ViT-H-14-laion2B-s32B-b79K, PickScore v1): 986,109,441 parameters.
CLIP_H14: dict[str, Any] = {
    "projection_dim": 1024,
    "text_config": {
        "vocab_size": 49408,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
}


def _tiny(published: Mapping[str, Any]) -> dict[str, Any]:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {
        **published,
        "text_config": {**published["text_config"], **small},
        "vision_config": {**published["vision_config"], **small, "patch_size": 32},
    }


L14_PRESETS = {"full": CLIP_L14, "tiny": _tiny(CLIP_L14)}
H14_PRESETS = {"full": CLIP_H14, "tiny": {**_tiny(CLIP_H14), "projection_dim": 64}}


def clip_config(architecture: Mapping[str, Any]) -> Any:
    """The transformers configuration of a CLIP architecture."""
    from transformers import CLIPConfig

    return CLIPConfig(**architecture)


def build_clip(architecture: Mapping[str, Any]) -> Any:
    """Both towers of CLIP."""
    from transformers import CLIPModel

    return CLIPModel(clip_config(architecture))


def build_clip_vision(architecture: Mapping[str, Any]) -> Any:
    """The image tower with its projection; its keys are a part of the whole model's."""
    from transformers import CLIPVisionModelWithProjection

    config = clip_config(architecture).vision_config
    config.projection_dim = architecture["projection_dim"]
    return CLIPVisionModelWithProjection(config)


def vision_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's tensors out of the whole model's."""
    kept = ("vision_model.", "visual_projection.")
    return {name: value for name, value in tensors.items() if name.startswith(kept)}


def embedding(output: Any) -> Tensor:
    """What transformers' ``get_*_features`` return: the embedding until version 4, wrapped since 5."""
    return output if isinstance(output, Tensor) else output.pooler_output


def unit(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Vectors of length one, in float32."""
    return F.normalize(vectors.float(), dim=-1)


@lru_cache(maxsize=1)
def _tokeniser() -> Any:
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "open_clip", "a reward with text", "pip install open_clip_torch"
        ) from error
    return SimpleTokenizer()


def clip_tokens(texts: Sequence[str], length: int = 77) -> Int[Tensor, "n length"]:
    """CLIP's byte-pair tokens, from 49406 to 49407, padded with zeros; long texts are cut before 49407."""
    return _tokeniser()(list(texts), context_length=length)


def padded_to_longest(
    tokens: Int[Tensor, "n length"],
) -> tuple[Int[Tensor, "n longest"], Int[Tensor, "n longest"]]:
    """Tokens cut to the longest text, and their attention mask, as transformers' processor gives them."""
    ends = tokens.argmax(dim=-1)
    longest = int(ends.max()) + 1
    mask = torch.arange(longest, device=tokens.device) <= ends[:, None]
    return tokens[:, :longest], mask.long()


def check_vocabulary(tokens: Tensor, size: int, *, needed_for: str) -> None:
    """Refuses tokens that a small architecture has no embedding for.

    Raises:
        VaderError: Naming the size.
    """
    if int(tokens.max()) >= size:
        raise VaderError(
            f"{needed_for}: the architecture's vocabulary of {size} cannot hold CLIP's tokens; "
            "use vocab_size 49408"
        )


def unique_texts(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Each text once, and for every given text its position among those.

    >>> unique_texts(["a", "b", "a"])
    (['a', 'b'], [0, 1, 0])
    """
    position: dict[str, int] = {}
    index = [position.setdefault(text, len(position)) for text in texts]
    return list(position), index


def in_order(rows: Float[Tensor, "m d"], index: Sequence[int]) -> Float[Tensor, "n d"]:
    """The rows that :func:`unique_texts` gives each text."""
    return torch.stack([rows[position] for position in index])
