"""Prompts to embeddings: the last state of every token of CLIP's text model, after the final norm."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vader_core.model_folder import from_folder
from vader_core.nn.long_texts import say_cut


class Tokenizer(Protocol):
    """Texts to token numbers of a fixed length."""

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "n l"]:
        """Token numbers, cut or padded to the model's length."""


class ClipTokenizer:
    """CLIP's byte-pair encoding, from the checkpoint's own tokenizer files.

    Args:
        folder: Holds `vocab.json`, `merges.txt` and their configuration.
        length: Tokens of every text, 77.
    """

    def __init__(self, folder: Path, length: int) -> None:
        from transformers import CLIPTokenizer

        self._tokenizer = from_folder(CLIPTokenizer, folder, what="backbone 'modelscope' (tokenizer)")
        self._length = length

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "n l"]:
        """Token numbers, int64; what is too long is cut, and said once."""
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        )
        for text, row in zip(texts, tokens["attention_mask"], strict=True):
            if bool(row.all()):  # full: it may have been longer
                whole = self._tokenizer(text, verbose=False)["input_ids"]
                say_cut(text, len(whole), self._length, label="backbone 'modelscope'")
        return torch.as_tensor(tokens["input_ids"])


class HashedWords:
    """Token numbers for random weights, which know no vocabulary: each word's checksum, modulo its size.

    Args:
        vocabulary: Number of tokens; the last one ends and pads a text.
        length: Tokens of every text.
    """

    def __init__(self, vocabulary: int, length: int) -> None:
        self._vocabulary = vocabulary
        self._length = length

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "n l"]:
        """Token numbers, int64."""
        rows = torch.full((len(texts), self._length), self._vocabulary - 1)
        for row, text in enumerate(texts):
            words = re.findall(r"\w+|[^\w\s]", text.lower())[: self._length - 1]
            for column, word in enumerate(words):
                rows[row, column] = zlib.crc32(word.encode()) % (self._vocabulary - 1)
        return rows


@torch.no_grad()
def embed(encoder: nn.Module, tokens: Int[Tensor, "n l"]) -> Float[Tensor, "n l d"]:
    """The last hidden state of every token, after the final norm; causal attention, no padding mask."""
    states: Tensor = encoder(tokens, return_dict=True).last_hidden_state
    return states
