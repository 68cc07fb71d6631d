"""Module names in kohya's LoRA files, where every dot has become an underscore."""

from __future__ import annotations

import re
from functools import lru_cache

#: Of the transformer: the prefix, a dot, the root's empty name and another dot.
DENOISER_PREFIX = "lora_unet__"
#: Of the text encoder.
TEXT_PREFIX = "lora_te_"

_MOTION = "transformer_blocks.#.attn_temporal.temporal_transformer"
_DENOISER = (
    *(f"adaln_single.emb.{kind}_embedder.linear_#" for kind in ("timestep", "resolution", "aspect_ratio")),
    "adaln_single.linear",
    "caption_projection.linear_#",
    "long_connect_fc.#",
    "proj_out",
    *(f"transformer_blocks.#.attn#.to_{part}" for part in ("q", "k", "v", "out.#")),
    "transformer_blocks.#.ff.net.0.proj",
    "transformer_blocks.#.ff.net.2",
    f"{_MOTION}.proj_in",
    f"{_MOTION}.proj_out",
    *(f"{_MOTION}.transformer_blocks.#.attention_blocks.#.to_{part}" for part in ("q", "k", "v", "out.#")),
    f"{_MOTION}.transformer_blocks.#.ff.net.0.proj",
    f"{_MOTION}.transformer_blocks.#.ff.net.2",
)
_TEXT = (
    *(f"encoder.block.#.layer.#.SelfAttention.{part}" for part in ("q", "k", "v", "o")),
    *(f"encoder.block.#.layer.#.DenseReluDense.{part}" for part in ("wi", "wi_0", "wi_1", "wo")),
)


def flattened(module: str) -> str:
    """A module's name without dots.

    >>> flattened("transformer_blocks.0.attn1.to_out.0")
    'transformer_blocks_0_attn1_to_out_0'
    """
    return module.replace(".", "_")


@lru_cache
def _patterns(text: bool) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Each form as a pattern of its flat name, with the dotted name that its numbers go into."""
    found = []
    for form in _TEXT if text else _DENOISER:
        flat = re.escape(flattened(form)).replace(r"\#", r"(\d+)")
        found.append((re.compile(flat), form))
    return tuple(found)


def dotted(flat: str, *, text: bool = False) -> str | None:
    """The module that a flat name means, or ``None`` where it is none that the official trainer wraps.

    Args:
        flat: A name without its prefix.
        text: Whether it lies in the text encoder.

    >>> dotted("transformer_blocks_3_attn1_to_out_0")
    'transformer_blocks.3.attn1.to_out.0'
    >>> dotted("transformer_blocks_3_norm") is None
    True
    """
    for pattern, form in _patterns(text):
        match = pattern.fullmatch(flat)
        if match is not None:
            parts = form.split("#")
            return "".join(a + b for a, b in zip(parts, (*match.groups(), ""), strict=True))
    return None
