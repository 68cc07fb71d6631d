"""Qwen2-VL as a differentiable function of a video's pixels and a text, batched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vader_core.device import to_device
from vader_core.errors import MissingDependencyError, VaderError
from vader_core.precision import without_autocast
from vader_core.weights import WeightFile

from .loading import companion, load_model, published_architecture
from .precision import differentiated
from .preprocessing import CLIP_MEAN, CLIP_STD, clamped, normalised, resized

#: Qwen2-VL-2B (Qwen/Qwen2-VL-2B-Instruct), as its config.json has it.
QWEN2_VL_2B: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "mlp_ratio": 4,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
PRESETS: dict[str, dict[str, Any]] = {
    "full": QWEN2_VL_2B,
    "tiny": {
        **QWEN2_VL_2B,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 264,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "vision_start_token_id": 258,
        "vision_end_token_id": 259,
        "image_token_id": 256,
        "video_token_id": 257,
        "vision_config": {
            **QWEN2_VL_2B["vision_config"],
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
        },
    },
}
#: Of the published model's dialogue; the video stands where its placeholder is.
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
DIALOGUE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{video}{text}<|im_end|>\n<|im_start|>assistant\n"
)


class Tokeniser(Protocol):
    """What turns a text into token ids."""

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, in which special tokens stand by name; nothing is added."""


class FileTokeniser:
    """The tokenizer.json that lies beside the weights.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependencyError(
                "tokenizers", "a Qwen2-VL reward", "pip install tokenizers"
            ) from error
        self._inner: Any = Tokenizer.from_file(str(path))

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        found: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return found


class ByteTokeniser:
    """Bytes as tokens, for random models; special tokens follow the 256 of them."""

    SPECIAL = (
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|im_start|>",
        "<|im_end|>",
    )

    def __init__(self, vocabulary: int) -> None:
        self.first = 256 if vocabulary < 151643 else 151650  # anywhere free: a random model knows no words
        self._vision = vocabulary >= 151643

    def encode(self, text: str) -> list[int]:
        """The bytes of ``text``, and the ids of its special tokens."""
        ids: list[int] = []
        while text:
            special = next((name for name in self.SPECIAL if text.startswith(name)), None)
            if special is None:
                ids += list(text[0].encode())
                text = text[1:]
            else:
                ids.append(self._special(special))
                text = text.removeprefix(special)
        return ids

    def _special(self, name: str) -> int:
        if not self._vision:
            return 256 + self.SPECIAL.index(name)
        return {
            "<|im_start|>": 151644,
            "<|im_end|>": 151645,
            "<|vision_start|>": 151652,
            "<|vision_end|>": 151653,
            "<|image_pad|>": 151655,
            "<|video_pad|>": 151656,
        }[name]


class QwenVL:
    """A frozen Qwen2-VL with its tokeniser.

    Args:
        option: The option ``architecture``.
        weights: The option ``weights``; a folder for a model in shards.
        files: Weights, config.json and tokenizer.json that ``pretrained`` means.
        what: What asks, for messages.
        name: The reward's name, for the options in messages.
        pixels: Fewest and most pixels of a frame after the resize.
        device: Where it lives.
        dtype: Of its weights.
    """

    def __init__(
        self,
        option: str | Mapping[str, Any],
        weights: str,
        files: tuple[WeightFile, WeightFile, WeightFile],
        *,
        what: str,
        name: str,
        pixels: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        layout = published_architecture(option, weights, PRESETS, files[1], needed_for=what)
        if layout.get("model_type") != "qwen2_vl":
            raise VaderError(
                f"{what}: a model of type {layout.get('model_type')!r} cannot be asked here: use a Qwen2-VL, "
                f"such as hub:{files[0].repository}"
            )
        self.device, self.dtype, self.limits = device, dtype, pixels
        rotary: dict[str, Tensor] = {}

        def build() -> Any:
            model = build_qwen(layout)
            rotary.update({key: value for key, value in model.named_buffers() if key.endswith("inv_freq")})
            return model

        self.model: Any = load_model(
            build,
            weights,
            files[0],
            device=device,
            dtype=dtype,
            needed_for=what,
            option=f"-o reward.{name}.weights=PATH",
            convert=renamed,
        )
        for key, value in rotary.items():  # rotations are computed in float32 whatever the weights are in
            place, _, own = key.rpartition(".")
            setattr(self.model.get_submodule(place), own, value.to(device))
        config = self.model.config
        self.video_token = int(config.video_token_id)
        vision = config.vision_config
        self.patch, self.merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self.tubelet = int(vision.temporal_patch_size)
        self.tokeniser: Tokeniser
        if weights == "random":
            self.tokeniser = ByteTokeniser(int(layout["vocab_size"]))
        else:
            hint = "put it beside them"
            self.tokeniser = FileTokeniser(companion(weights, files[2], needed_for=what, hint=hint))

    # -- pixels ------------------------------------------------------------------------------------------

    def patches(self, video: Float[Tensor, "b f 3 H W"]) -> tuple[Float[Tensor, "n d"], tuple[int, int, int]]:
        """Every video's patches as the image tower wants them, one after the other, and the grid of one.

        Frames are resized bicubically with antialias to sides that are multiples of 28 pixels, as near to
        their shape as the limits allow; an odd number of frames gets the last one twice.
        """
        batch, count, _, height, width = video.shape
        size = fitted_size(height, width, self.patch * self.merge, *self.limits)
        with without_autocast(video.device):
            frames = resized(clamped(video.to(self.device)).flatten(0, 1), size, mode="bicubic")
            frames = normalised(frames.clamp(0.0, 1.0), CLIP_MEAN, CLIP_STD).unflatten(0, (batch, count))
        if count % self.tubelet:
            more = self.tubelet - count % self.tubelet
            frames = torch.cat([frames, frames[:, -1:].expand(-1, more, -1, -1, -1)], dim=1)
        grid = frames.shape[1] // self.tubelet, size[0] // self.patch, size[1] // self.patch
        patches = rearrange(
            frames,
            "b (t u) c (y m p) (x n q) -> (b t y x m n) (c u p q)",
            u=self.tubelet,
            m=self.merge,
            n=self.merge,
            p=self.patch,
            q=self.patch,
        )
        return patches, grid

    # -- text --------------------------------------------------------------------------------------------

    def dialogue(self, texts: Sequence[str], grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """The ids of a question about a video per text, padded at the end, and their mask: [B, l] each."""
        count = grid[0] * grid[1] * grid[2] // self.merge**2
        encode = self.tokeniser.encode
        head, _, tail = DIALOGUE.partition("{video}{text}")
        opened, closed = VIDEO.split("<|video_pad|>")
        before = [*encode(head + opened), *[self.video_token] * count, *encode(closed)]
        # what a prompt holds is words, even where it looks like a special token's name
        rows = [[*before, *encode(without_specials(text)), *encode(tail)] for text in texts]
        longest = max(map(len, rows))
        ids_of = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return to_device(ids_of, self.device), to_device(mask, self.device)

    # -- the model ---------------------------------------------------------------------------------------

    def hidden(
        self,
        patches: Float[Tensor, "n d"],
        grid: tuple[int, int, int],
        ids: Int[Tensor, "b l"],
        mask: Int[Tensor, "b l"],
    ) -> Float[Tensor, "b l d"]:
        """The last layer's states, after the norm, in float32."""
        grids = torch.tensor([grid] * len(ids), device=self.device)
        kinds = 2 * (ids == self.video_token).int()
        return differentiated(
            lambda inputs: (
                self.model.model(
                    input_ids=ids,
                    attention_mask=mask,
                    pixel_values_videos=inputs,
                    video_grid_thw=grids,
                    mm_token_type_ids=kinds,
                    use_cache=False,
                ).last_hidden_state
            ),
            patches,
            device=self.device,
            dtype=self.dtype,
        )

    def last_logits(
        self, video: Float[Tensor, "b f 3 H W"], texts: Sequence[str], tokens: Sequence[int]
    ) -> Float[Tensor, "b t"]:
        """The logits of some tokens as the answer's first, float32."""
        patches, grid = self.patches(video)
        ids, mask = self.dialogue(texts, grid)
        states = self.hidden(patches, grid, ids, mask)
        last = states[torch.arange(len(ids), device=self.device), mask.sum(dim=1) - 1]
        with without_autocast(self.device):
            return F.linear(last.float(), self.model.lm_head.weight[list(tokens)].float())


def fitted_size(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Sides that are multiples of ``factor``, whose product lies within the limits, near the given shape.

    >>> fitted_size(480, 832, 28, 56 * 56, 448 * 448)
    (336, 560)
    """
    sides = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if sides[0] * sides[1] > most:
        scale = math.sqrt(height * width / most)
        sides = [max(factor, math.floor(side / scale / factor) * factor) for side in (height, width)]
    elif sides[0] * sides[1] < least:
        scale = math.sqrt(least / (height * width))
        sides = [math.ceil(side * scale / factor) * factor for side in (height, width)]
    return sides[0], sides[1]


def without_specials(text: str) -> str:
    """A text whose special tokens are broken up: a prompt cannot speak for the dialogue.

    >>> without_specials("a <|im_end|> b")
    'a < |im_end| > b'
    """
    return text.replace("<|", "< |").replace("|>", "| >")


def build_qwen(layout: Mapping[str, Any]) -> Any:
    """Qwen2-VL of transformers."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    given = {key: value for key, value in layout.items() if key not in ("model_type", "architectures")}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(**given))


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published names (`visual.…`, `model.…`) as transformers 5 has them."""
    if any(name.startswith(("model.visual.", "model.language_model.")) for name in tensors):
        return dict(tensors)
    found = {}
    for name, value in tensors.items():
        if name.startswith("visual."):
            found[f"model.{name}"] = value
        elif name.startswith("model."):
            found[f"model.language_model.{name.removeprefix('model.')}"] = value
        else:
            found[name] = value
    return found
