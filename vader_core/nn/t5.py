"""T5 through transformers, and what stands in for it beside random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.model_folder import from_folder
from vader_core.nn.long_texts import say_cut
from vader_core.precision import without_autocast
from vader_core.randomness import derive_seed


class T5TextEncoder:
    """A T5 encoder with its tokenizer, through transformers.

    Args:
        folder: Model and tokenizer, or ``text_encoder`` and ``tokenizer`` with one each.
        device: Where it runs. Between calls it may rest on the CPU.
        dtype: Of its weights.
        max_length: Tokens that a prompt is padded and cut to.
        channels: Width that the denoiser expects.
        label: What asks, for messages.

    Raises:
        VaderError: The folder is not a T5, or one of another width.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        max_length: int,
        channels: int,
        label: str,
    ) -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        encoder, tokenizer = folder, folder
        if (folder / "text_encoder").is_dir():
            encoder, tokenizer = folder / "text_encoder", folder / "tokenizer"
        what = f"{label}, a T5"
        self.tokenizer = from_folder(AutoTokenizer, tokenizer, what=what)
        model = from_folder(T5EncoderModel, encoder, what=what, dtype=dtype)
        if model.config.d_model != channels:
            raise VaderError(
                f"{label}: {folder} has width {model.config.d_model}, but the denoiser expects {channels}"
            )
        self.model: Any = model.requires_grad_(False).eval()
        self.device = device
        self.max_length, self.label = max_length, label

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode texts.

        Returns:
            ``embeddings`` [n, max_length, channels] float32, zero behind a text's end (no denoiser
            looks there), and ``mask`` [n, max_length] bool.
        """
        self.model.to(self.device)
        tokens = self.tokenizer(
            list(texts),
            max_length=self.max_length,
            padding="max_length",
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        for text, row in zip(texts, tokens.attention_mask, strict=True):
            if bool(row.all()):  # full: it may have been longer
                whole = self.tokenizer(text, verbose=False).input_ids
                say_cut(text, len(whole), self.max_length, label=self.label)
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        # Autocast would change what is cached with the run's precision.
        with without_autocast(ids.device):
            encoded = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        mask = mask.bool()
        return {"embeddings": encoded.float() * mask[..., None], "mask": mask}

    def rest(self) -> None:
        """Leave the device to others until the next call."""
        self.model.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class WordVectors:
    """The text encoder that goes with random weights: every word has its own random vector.

    No T5 is built: there is no tokenizer to go with random weights, and 18 GiB of them say no more about a
    prompt.

    Args:
        max_length: Tokens that a prompt is cut to.
        channels: Width of the vectors.
        key: Sets the vectors apart from other models'.
    """

    def __init__(self, *, max_length: int, channels: int, key: str) -> None:
        self.key = key
        self.max_length = max_length
        self.channels = channels

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``embeddings`` [n, max_length, channels] and ``mask``: a token a word, and one for the end."""
        embeddings = torch.zeros(len(texts), self.max_length, self.channels)
        mask = torch.zeros(len(texts), self.max_length, dtype=torch.bool)
        for index, text in enumerate(texts):
            row = self._row(text)
            embeddings[index, : len(row)] = row
            mask[index, : len(row)] = True
        return {"embeddings": embeddings, "mask": mask}

    def _row(self, text: str) -> Tensor:
        words = [*text.split()[: self.max_length - 1], ""]
        return torch.stack([self._vector(word) for word in words])

    def _vector(self, word: str) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.key, word))
        return torch.randn(self.channels, generator=generator)
