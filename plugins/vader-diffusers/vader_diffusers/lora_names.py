"""What the models' own code calls the modules of a denoiser, beside diffusers' names.

Where the own code has one layer for several of diffusers', a LoRA of the parts is one LoRA of the whole: the
down matrices below one another, the up matrices along a diagonal. The other way round every part has the
whole's down matrix, of which only the ranks stay that its own rows of the up matrix use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Names:
    """A family's names.

    Args:
        blocks: Prefixes of blocks, ours → theirs; ``#`` stands for a number.
        within: Names within each of those blocks, ours → theirs; several of ours that are one of theirs are
            divided by ``|``, in the order of its rows.
        outside: Whole names outside the blocks, ours → theirs.
    """

    blocks: Mapping[str, str]
    within: Mapping[str, Mapping[str, str]]
    outside: Mapping[str, str]

    def theirs(self, module: str) -> tuple[str, int, int] | None:
        """Their name of one of ours, which of its parts it is, and of how many; ``None`` is unknown."""
        for (ours, theirs), number in self._all(module, ours=True):
            for place, part in enumerate(parts := ours.split("|")):
                if part.replace("#", number) == module:
                    return theirs.replace("#", number), place, len(parts)
        return None

    def ours(self, module: str, *, flat: bool) -> tuple[str, ...] | None:
        """Our names of one of theirs; ``None`` is unknown.

        Args:
            module: With dots, or with ``_`` in their place.
            flat: The latter.
        """
        for (ours, theirs), number in self._all(module, ours=False):
            name = theirs.replace("#", number)
            if module == (name.replace(".", "_") if flat else name):
                return tuple(part.replace("#", number) for part in ours.split("|"))
        return None

    def _all(self, module: str, *, ours: bool) -> Iterator[tuple[tuple[str, str], str]]:
        """Every pair of names, with the number that may stand in it."""
        numbers = re.findall(r"(?<=[._])\d+(?=[._])", module)
        for mine, other in self.blocks.items():
            for inner, outer in self.within[mine].items():
                whole = "|".join(f"{mine}.{part}" for part in inner.split("|"))
                for number in numbers:
                    yield (whole, f"{other}.{outer}"), number
        for pair in self.outside.items():
            yield pair, ""


_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}
WAN = Names(
    blocks={"blocks.#": "blocks.#"},
    within={
        "blocks.#": {
            **{f"attn1.{ours}": f"self_attn.{theirs}" for ours, theirs in _ATTENTION.items()},
            **{f"attn2.{ours}": f"cross_attn.{theirs}" for ours, theirs in _ATTENTION.items()},
            "attn2.add_k_proj": "cross_attn.k_img",
            "attn2.add_v_proj": "cross_attn.v_img",
            "ffn.net.0.proj": "ffn.0",
            "ffn.net.2": "ffn.2",
        }
    },
    outside={
        "patch_embedding": "patch_embedding",
        "proj_out": "head.head",
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
        "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    },
)

_DOUBLE, _SINGLE = "transformer_blocks.#", "single_transformer_blocks.#"
_REFINER = "context_embedder.token_refiner.refiner_blocks.#"
HUNYUAN_VIDEO = Names(
    blocks={
        _DOUBLE: "double_blocks.#",
        _SINGLE: "single_blocks.#",
        _REFINER: "txt_in.individual_token_refiner.blocks.#",
    },
    within={
        _DOUBLE: {
            "attn.to_q|attn.to_k|attn.to_v": "img_attn_qkv",
            "attn.add_q_proj|attn.add_k_proj|attn.add_v_proj": "txt_attn_qkv",
            "attn.to_out.0": "img_attn_proj",
            "attn.to_add_out": "txt_attn_proj",
            "ff.net.0.proj": "img_mlp.fc1",
            "ff.net.2": "img_mlp.fc2",
            "ff_context.net.0.proj": "txt_mlp.fc1",
            "ff_context.net.2": "txt_mlp.fc2",
            "norm1.linear": "img_mod.linear",
            "norm1_context.linear": "txt_mod.linear",
        },
        _SINGLE: {
            "attn.to_q|attn.to_k|attn.to_v|proj_mlp": "linear1",
            "proj_out": "linear2",
            "norm.linear": "modulation.linear",
        },
        _REFINER: {
            "attn.to_q|attn.to_k|attn.to_v": "self_attn_qkv",
            "attn.to_out.0": "self_attn_proj",
            "ff.net.0.proj": "mlp.fc1",
            "ff.net.2": "mlp.fc2",
            "norm_out.linear": "adaLN_modulation.1",
        },
    },
    outside={"context_embedder.proj_in": "txt_in.input_embedder", "proj_out": "final_layer.linear"},
)

#: LTX and LTX-2 keep diffusers' names but for the projections at the ends and the times.
LTX = Names(
    blocks={},
    within={},
    outside={"proj_in": "patchify_proj", "audio_proj_in": "audio_patchify_proj"},
)


def joined(parts: Sequence[Pair | None]) -> Pair:
    """LoRAs of a layer's parts as one of the whole; of four parts the last has four times the rows.

    Args:
        parts: Down [r, in] and up [rows, r] of each, ``None`` where there is none.
    """
    given = [pair for pair in parts if pair is not None]
    width = given[0][0].shape[1]
    ups = []
    for place, pair in enumerate(parts):
        # the fourth is HunyuanVideo's feed-forward network, four times as wide as the model
        rows = width * (4 if place == 3 else 1)
        ups.append(given[0][1].new_zeros(rows, 0) if pair is None else pair[1])
    return torch.cat([down for down, _ in given]), torch.block_diag(*ups)


def divided(down: Tensor, up: Tensor, count: int) -> list[Pair | None]:
    """The inverse of :func:`joined`: a LoRA per part, ``None`` where a part's is zero.

    Args:
        down: [r, in].
        up: [rows of all parts, r].
        count: How many parts: three of equal rows, and the fourth has the rest.
    """
    size = up.shape[0] // 3 if count == 3 else down.shape[1]
    rows = up.split([size, size, size] + ([up.shape[0] - 3 * size] if count == 4 else []))
    found: list[Pair | None] = []
    for part in rows:
        used = part.any(dim=0)
        found.append((down[used].clone(), part[:, used].clone()) if bool(used.any()) else None)
    return found
