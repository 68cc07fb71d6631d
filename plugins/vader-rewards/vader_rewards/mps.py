"""``mps``: Multi-dimensional Preference Score of frame and prompt, CLIP ViT-H/14 with cross attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.device import to_device
from vader_core.precision import without_autocast
from vader_core.prompts import Prompt
from vader_core.reward import ImageReward

from .clip_towers import (
    H14_PRESETS,
    build_clip,
    check_vocabulary,
    clip_tokens,
    in_order,
    unique_texts,
    unit,
)
from .loading import architecture, load_model
from .options import MpsOptions
from .precision import autocast, differentiated
from .preprocessing import clip_processor_pixels
from .weight_files import MPS

#: Blocks of the cross model, and the width of a head.
BLOCKS, HEAD_WIDTH = 4, 64
#: Of CLIP's vocabulary: the end of a text, with which transformers' tokeniser fills up as well.
_END = 49407


class MultiQueryCross(nn.Module):
    """Queries of an image against one head of keys and values of a text, beside a gated feed-forward.

    Args:
        width: Of the tokens.
        heads: Of the queries.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Scaled(width)
        self.to_q = nn.Linear(width, heads * HEAD_WIDTH, bias=False)
        self.to_kv = nn.Linear(width, 2 * HEAD_WIDTH, bias=False)
        self.to_out = nn.Linear(heads * HEAD_WIDTH, width, bias=False)
        gated = nn.Linear(width, 8 * width, bias=False)
        self.ff = nn.Sequential(gated, Gated(), nn.Linear(4 * width, width, bias=False))

    def forward(
        self, image: Float[Tensor, "n i d"], text: Float[Tensor, "n j d"], bias: Float[Tensor, "n 1 j"]
    ) -> Float[Tensor, "n i d"]:
        """What is added to the image's tokens; ``bias`` is minus infinity at words that do not count."""
        states = self.norm(image)
        keys, values = self.to_kv(text).chunk(2, dim=-1)
        return self.to_out(one_headed(self.to_q(states), keys, values, self.heads, bias)) + self.ff(states)


class ParallelSelf(nn.Module):
    """Self-attention with one head of keys and values, and rotary positions, beside a gated feed-forward.

    Args:
        width: Of the tokens.
        heads: Of the queries.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Scaled(width)
        self.rotary_emb = Rotations()
        self.parts = (heads * HEAD_WIDTH, HEAD_WIDTH, HEAD_WIDTH, 8 * width)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.parts), bias=False)
        self.attn_out = nn.Linear(heads * HEAD_WIDTH, width, bias=False)
        self.ff_out = nn.Sequential(Gated(), nn.Linear(4 * width, width, bias=False))

    def forward(self, image: Float[Tensor, "n i d"]) -> Float[Tensor, "n i d"]:
        """What is added to the image's tokens."""
        queries, keys, values, wide = self.fused_attn_ff_proj(self.norm(image)).split(self.parts, dim=-1)
        angles = self.rotary_emb(image.shape[1])
        turned = rearrange(queries, "n i (h d) -> n h i d", h=self.heads)
        queries = rearrange(rotated(turned, angles), "n h i d -> n i (h d)")
        attended = one_headed(queries, rotated(keys, angles), values, self.heads, None)
        return self.attn_out(attended) + self.ff_out(wide)


class Scaled(nn.Module):
    """Layer norm with a weight alone.

    Args:
        width: Of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states: Float[Tensor, "n i d"]) -> Float[Tensor, "n i d"]:
        """The normed states."""
        return F.layer_norm(states, states.shape[-1:], self.weight)


class Gated(nn.Module):
    """SwiGLU: the first half, times the second's SiLU."""

    def forward(self, states: Float[Tensor, "n i d"]) -> Float[Tensor, "n i e"]:
        """Half as many numbers."""
        value, gate = states.chunk(2, dim=-1)
        return F.silu(gate) * value


class Rotations(nn.Module):
    """The angles of rotary positions, base 10000, in float32."""

    def forward(self, length: int) -> Float[Tensor, "i d"]:
        """One row per position."""
        steps = torch.arange(0, HEAD_WIDTH, 2, dtype=torch.float32)
        angles = torch.outer(torch.arange(length, dtype=torch.float32), 10000.0 ** (-steps / HEAD_WIDTH))
        return torch.cat([angles, angles], dim=-1)


def rotated(states: Float[Tensor, "... i d"], angles: Float[Tensor, "i d"]) -> Float[Tensor, "... i d"]:
    """The states turned by their positions' angles; the halves are pairs."""
    cosine, sine = (to_device(one, states.device).to(states.dtype) for one in (angles.cos(), angles.sin()))
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat([-second, first], dim=-1) * sine


def one_headed(
    queries: Float[Tensor, "n i e"],
    keys: Float[Tensor, "n j d"],
    values: Float[Tensor, "n j d"],
    heads: int,
    bias: Float[Tensor, "n 1 j"] | None,
) -> Float[Tensor, "n i e"]:
    """Attention of many heads of queries to one head of keys and values."""
    split = rearrange(queries, "n i (h d) -> n h i d", h=heads)
    mask = None if bias is None else bias[:, None].to(split.dtype)
    key, value = (one[:, None].expand(-1, heads, -1, -1) for one in (keys, values))
    return rearrange(F.scaled_dot_product_attention(split, key, value, mask), "n h i d -> n i (h d)")


class Residual(nn.Module):
    """A block whose output is added to its first input; the published names have it so.

    Args:
        block: The block.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.fn = block

    def forward(self, states: Tensor, *more: Tensor) -> Tensor:
        """The states, and what the block makes of them."""
        made: Tensor = self.fn(states, *more)
        return states + made


class CrossModel(nn.Module):
    """An image's tokens that read a text's.

    Args:
        width: Of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = max(1, width // HEAD_WIDTH)
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(MultiQueryCross(width, heads)), Residual(ParallelSelf(width, heads))])
            for _ in range(BLOCKS)
        )

    def forward(
        self, image: Float[Tensor, "n i d"], text: Float[Tensor, "n j d"], bias: Float[Tensor, "n 1 j"]
    ) -> Float[Tensor, "n i d"]:
        """The image's tokens afterwards."""
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            image = layer[1](layer[0](image, text, bias))
        return image


class Scorer(nn.Module):
    """Both towers of CLIP, and the cross model behind them.

    Args:
        layout: Of CLIP.
    """

    def __init__(self, layout: Mapping[str, Any]) -> None:
        super().__init__()
        self.model: Any = build_clip(layout)
        self.cross_model = CrossModel(int(layout["projection_dim"]))

    def words(self, ids: Int[Tensor, "n l"]) -> tuple[Float[Tensor, "n l d"], Float[Tensor, "n d"]]:
        """Every token of a text, and the text as a whole."""
        found = self.model.text_model(input_ids=ids)
        project = self.model.text_projection
        return project(found.last_hidden_state), project(found.pooler_output)

    def forward(
        self, pixels: Float[Tensor, "n 3 h w"], words: Float[Tensor, "n l d"], bias: Float[Tensor, "n 1 l"]
    ) -> Float[Tensor, "n d"]:
        """The image as it looks to its text."""
        image = self.model.visual_projection(self.model.vision_model(pixels).last_hidden_state)
        return self.cross_model(image, words, bias)[:, 0]


class Mps(ImageReward):
    """Which frame people would prefer for its prompt: ``exp(logit_scale) * cosine``; loss minus that / 100.

    Args:
        options: The condition, and the model.
        device: Where it lives.
        dtype: Of its weights.
    """

    name: ClassVar[str] = "mps"
    reads_text: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("clip-h14",)

    def __init__(self, options: MpsOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        what = f"reward {self.name!r}"
        layout = architecture(options.architecture, H14_PRESETS, needed_for=what)
        model = load_model(
            lambda: Scorer(layout),
            options.weights,
            MPS,
            device=device,
            dtype=torch.float32,  # the scale is read before the weights are rounded
            needed_for=what,
            option=f"-o reward.{self.name}.weights=PATH",
            convert=published,
        )
        self.scale = model.model.logit_scale.detach().double().exp()
        self.model: Any = model.to(dtype)
        self.device, self.dtype, self.options = device, dtype, options
        self.size = int(layout["vision_config"]["image_size"])
        self.vocabulary = int(layout["text_config"]["vocab_size"])

    def words(self, texts: Sequence[str]) -> tuple[Float[Tensor, "n 77 d"], Float[Tensor, "n d"]]:
        """Every token of each text, and each text as a whole, in float32 and without a graph."""
        tokens = filled_with_ends(clip_tokens(texts))
        check_vocabulary(tokens, self.vocabulary, needed_for=f"reward {self.name!r}")
        with torch.no_grad(), autocast(self.device, self.dtype):
            every, whole = self.model.words(to_device(tokens, self.device))
        return every.float(), whole.float()

    def bias(
        self, words: Float[Tensor, "n l d"], condition: Float[Tensor, "1 m d"]
    ) -> Float[Tensor, "n 1 l"]:
        """Minus infinity where a prompt's word is too far from what is asked, for each prompt alone."""
        with without_autocast(self.device):
            near = torch.einsum("nld,kmd->nml", words, condition).amax(dim=1, keepdim=True)
            share = near / near.amax(dim=-1, keepdim=True)
        return torch.where(share > self.options.threshold, 0.0, -torch.inf)

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """The score of each frame with its own prompt."""
        texts, index = unique_texts([prompt.text for prompt in prompts])
        words, whole = self.words(texts)
        bias = self.bias(words, self.words([self.options.condition])[0])
        words, whole, bias = (in_order(one, index) for one in (words, whole, bias))
        image = differentiated(
            lambda inputs: self.model(inputs, words.to(inputs.dtype), bias),
            clip_processor_pixels(frames.to(self.device), self.size),
            device=self.device,
            dtype=self.dtype,
        )
        with without_autocast(self.device):
            return self.scale * (unit(image) * unit(whole)).sum(dim=-1)

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Minus the score, in units of the scale's upper end."""
        return -scores / 100.0


def filled_with_ends(tokens: Int[Tensor, "n l"]) -> Int[Tensor, "n l"]:
    """Tokens with the end's id behind the end, as transformers' tokeniser fills up."""
    behind = torch.arange(tokens.shape[1]) > tokens.argmax(dim=-1, keepdim=True)
    return tokens.masked_fill(behind, _END)


def published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names: without ``mps.``, and without what is computed or zero by construction."""
    named = {name.removeprefix("mps."): value for name, value in tensors.items()}
    computed = (".rotary_emb.inv_freq", ".fn.norm.bias", ".position_ids")
    return {name: value for name, value in named.items() if not name.endswith(computed)}
