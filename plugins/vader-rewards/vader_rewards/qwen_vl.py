"""Qwen2-VL as a differentiable function of a video's pixels and a text, batched."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vader_core.device import to_device
from vader_core.errors import MissingDependencyError
from vader_core.precision import without_autocast
from vader_core.weights import WeightFile

from .loading import companion, load_model
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
#: Qwen2-VL-7B (Qwen/Qwen2-VL-7B-Instruct), where it differs.
QWEN2_VL_7B: dict[str, Any] = {
    **QWEN2_VL_2B,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "vision_config": {**QWEN2_VL_2B["vision_config"], "hidden_size": 3584},
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
#: What the model is shown: a clip, or a single picture.
Kind = Literal["video", "image"]
#: Of the published model's dialogue; what is seen stands where its placeholder is.
SEEN = "<|vision_start|><|{kind}_pad|><|vision_end|>"
VIDEO = SEEN.replace("{kind}", "video")
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
        more: Special tokens that a tuned model adds behind the file's own.
    """

    def __init__(self, path: Path, more: Sequence[str] = ()) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependencyError(
                "tokenizers", "a Qwen2-VL reward", "pip install tokenizers"
            ) from error
        self._inner: Any = Tokenizer.from_file(str(path))
        self._inner.add_special_tokens(list(more))

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        found: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return found


class RandomTokeniser:
    """Words as tokens, by a checksum from 1 to 255, for random models; special tokens follow them.

    Args:
        vocabulary: Of the model.
        more: Special tokens that a tuned model adds.
    """

    SPECIAL = (
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|im_start|>",
        "<|im_end|>",
    )

    def __init__(self, vocabulary: int, more: Sequence[str] = ()) -> None:
        published = vocabulary >= 151643
        ids = (151655, 151656, 151652, 151653, 151644, 151645) if published else range(256, 262)
        first = 151657 if published else 262
        added = range(first, first + len(more))
        self._special = dict(zip((*self.SPECIAL, *more), (*ids, *added), strict=True))
        self._cut = re.compile("(" + "|".join(map(re.escape, self._special)) + ")")

    def encode(self, text: str) -> list[int]:
        """One token per word, and the ids of the special tokens."""
        ids: list[int] = []
        for part in self._cut.split(text):
            if part in self._special:
                ids.append(self._special[part])
            else:
                ids += [1 + zlib.crc32(word.encode()) % 255 for word in part.split()]
        return ids


def tokeniser_of(
    weights: str, file: WeightFile, vocabulary: int, *, needed_for: str, more: Sequence[str] = ()
) -> Tokeniser:
    """What turns texts into the ids that a model with these weights knows.

    Args:
        weights: The option ``weights``; ``random`` has words as tokens.
        file: The tokenizer.json that lies beside the weights.
        vocabulary: Rows of the model's embedding.
        needed_for: What asks, for messages.
        more: Special tokens that a tuned model adds.
    """
    if weights == "random":
        return RandomTokeniser(vocabulary, more)
    hint = "put it beside them"
    return FileTokeniser(companion(weights, file, needed_for=needed_for, hint=hint), more)


def load_qwen(
    build: Callable[[], Any],
    weights: str,
    file: WeightFile,
    *,
    device: torch.device,
    dtype: torch.dtype,
    needed_for: str,
    option: str,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> Any:
    """As :func:`vader_rewards.loading.load_model`; rotations are computed in float32 whatever the dtype."""
    rotary: dict[str, Tensor] = {}

    def built() -> Any:
        model = build()
        rotary.update({key: value for key, value in model.named_buffers() if key.endswith("inv_freq")})
        return model

    model: Any = load_model(
        built,
        weights,
        file,
        device=device,
        dtype=dtype,
        needed_for=needed_for,
        option=option,
        convert=convert,
    )
    for key, value in rotary.items():
        place, _, own = key.rpartition(".")
        setattr(model.get_submodule(place), own, value.to(device))
    return model


class QwenVL:
    """A frozen Qwen2-VL with its tokeniser.

    Args:
        model: Loaded; its attribute ``model`` is transformers' Qwen2VLModel.
        tokeniser: Of its texts.
        pixels: Fewest and most pixels of a frame after the resize.
        device: Where it lives.
        dtype: Of its weights.
        kind: Whether it is shown clips or pictures.
    """

    def __init__(
        self,
        model: Any,
        tokeniser: Tokeniser,
        *,
        pixels: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        kind: Kind = "video",
    ) -> None:
        self.model, self.tokeniser, self.limits = model, tokeniser, pixels
        self.device, self.dtype, self.kind = device, dtype, kind
        config = model.model.config
        self.placeholder = int(config.video_token_id if kind == "video" else config.image_token_id)
        vision = config.vision_config
        self.patch, self.merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self.tubelet = int(vision.temporal_patch_size)

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
            frames = normalised(clamped(frames), CLIP_MEAN, CLIP_STD).unflatten(0, (batch, count))
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
        """The ids of a question per text, padded at the end, and their mask: [B, l] each, on the CPU.

        Special tokens in a text count as such: what comes from a prompt goes through
        :func:`without_specials` before.
        """
        count = grid[0] * grid[1] * grid[2] // self.merge**2
        encode = self.tokeniser.encode
        head, _, tail = DIALOGUE.partition("{video}{text}")
        opened, closed = VIDEO.split("<|video_pad|>")
        before = [*encode(head + opened), *[self.placeholder] * count, *encode(closed)]
        rows = [[*before, *encode(text), *encode(tail)] for text in texts]
        longest = max(map(len, rows))
        ids_of = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return ids_of, mask

    # -- the model ---------------------------------------------------------------------------------------

    def hidden(
        self,
        patches: Float[Tensor, "n d"],
        grid: tuple[int, int, int],
        ids: Int[Tensor, "b l"],
        mask: Int[Tensor, "b l"],
    ) -> Float[Tensor, "b l d"]:
        """The last layer's states, after the norm, in float32.

        The towers are called part by part: transformers' own forward asks the device what lies where, and
        that is known here beforehand. So nothing waits for the device, and a step can be followed on paper.
        """
        first = int((ids[0] == self.placeholder).int().argmax())
        places = self._places(grid, first, ids.shape[1])[:, None].expand(-1, len(ids), -1)
        words, valid, places = (to_device(one, self.device) for one in (ids, mask, places))
        towers = self.model.model

        def states(inputs: Tensor) -> Tensor:
            seen = self._seen(inputs, grid, len(ids))
            embedded = towers.get_input_embeddings()(words)
            before, after = embedded[:, :first], embedded[:, first + seen.shape[1] :]
            found: Tensor = towers.language_model(
                inputs_embeds=torch.cat([before, seen.to(embedded.dtype), after], dim=1),
                attention_mask=valid,
                position_ids=places,
                use_cache=False,
            ).last_hidden_state
            return found

        return differentiated(states, patches, device=self.device, dtype=self.dtype)

    def _seen(
        self, patches: Float[Tensor, "n d"], grid: tuple[int, int, int], count: int
    ) -> Float[Tensor, "b s d"]:
        """What the image tower makes of the patches of ``count`` clips: as many tokens as each has places."""
        tower, (frames, rows, columns) = self.model.model.visual, grid
        places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
        places = rearrange(places, "(y m) (x n) a -> (y x m n) a", m=self.merge, n=self.merge)
        angles = to_device(places.float(), self.device)[..., None] * tower.rotary_pos_emb.inv_freq
        angles = angles.flatten(1).repeat(count * frames, 2)
        # A frame's patches see each other alone. The blocks read these off, so they stay on the CPU.
        ends = rows * columns * torch.arange(count * frames + 1, dtype=torch.int32)
        states = tower.patch_embed(patches.to(tower.dtype))
        for block in tower.blocks:
            states = block(states, cu_seqlens=ends, position_embeddings=(angles.cos(), angles.sin()))
        found: Tensor = tower.merger(states)
        return found.unflatten(0, (count, -1))

    def _places(self, grid: tuple[int, int, int], first: int, length: int) -> Int[Tensor, "3 l"]:
        """Where each token stands in time, height and width; words count on behind what was seen."""
        sides = (grid[0], grid[1] // self.merge, grid[2] // self.merge)
        axes = torch.meshgrid(*(torch.arange(side) for side in sides), indexing="ij")
        seen = first + torch.stack(axes).flatten(1)
        after = torch.arange(length - first - seen.shape[1]) + first + max(sides)
        return torch.cat([torch.arange(first).expand(3, -1), seen, after.expand(3, -1)], dim=1)

    def last_logits(
        self, video: Float[Tensor, "b f 3 H W"], texts: Sequence[str], tokens: Sequence[int]
    ) -> Float[Tensor, "b t"]:
        """The logits of some tokens as the answer's first, float32."""
        patches, grid = self.patches(video)
        ids, mask = self.dialogue(texts, grid)
        states = self.hidden(patches, grid, ids, mask)
        last = states[torch.arange(len(ids)), mask.sum(dim=1) - 1]
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
