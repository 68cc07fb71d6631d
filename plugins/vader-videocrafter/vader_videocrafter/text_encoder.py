"""The OpenCLIP ViT-H-14 text tower without its last block, run by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from vader_core.nn.long_texts import say_cut
from vader_videocrafter.architecture import TextArchitecture


def build_text_model(architecture: TextArchitecture) -> nn.Module:
    """A fresh `CLIPTextModel` without trained weights, on torch's current default device.

    It has one block less than the tower: VideoCrafter2 reads the penultimate layer, so the last one never
    runs. The final normalisation follows that layer, as in the official wrapper.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=architecture.vocab_size,
        hidden_size=architecture.width,
        intermediate_size=4 * architecture.width,
        num_hidden_layers=architecture.layers - 1,
        num_attention_heads=architecture.heads,
        max_position_embeddings=architecture.context_length,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        bos_token_id=architecture.vocab_size - 2,
        eos_token_id=architecture.vocab_size - 1,
        pad_token_id=0,
    )
    module: nn.Module = CLIPTextModel(config)
    return module


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def tokenize(texts: Sequence[str], context_length: int = 77) -> Tensor:
    """Tokens by OpenCLIP's rules: lower case, start 49406, end 49407, zeros after it.

    Args:
        texts: Any strings; what does not fit is cut, said once, and the last position set to the end token.
        context_length: Tokens of a row.

    Returns:
        `[len(texts), context_length]`, int64.
    """
    tokenizer = _tokenizer()
    tokens: Tensor = tokenizer(list(texts), context_length=context_length)
    for text, row in zip(texts, tokens, strict=True):
        if int(row[-1]):  # full: it may have been longer
            whole = len(tokenizer.encode(text)) + 2
            say_cut(text, whole, context_length, label="backbone 'videocrafter'")
    return tokens


def encode_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """Penultimate hidden states after the final normalisation.

    Args:
        model: From `build_text_model`.
        tokens: `[n, l]`, int64.

    Returns:
        `[n, l, d]`; every position counts, the padding too.
    """
    hidden: Tensor = model(input_ids=tokens).last_hidden_state
    return hidden
