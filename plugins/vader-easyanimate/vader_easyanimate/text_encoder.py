"""T5, which turns prompts into what the denoiser attends to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.model_folder import from_folder
from vader_core.precision import without_autocast
from vader_core.randomness import derive_seed
from vader_easyanimate.lora_format import read_pairs


class T5TextEncoder:
    """A T5 encoder with its tokenizer, through transformers.

    Args:
        folder: Holds both, or ``text_encoder`` and ``tokenizer`` with one each.
        device: Where it runs. Between calls it may rest on the CPU.
        dtype: Of its weights.
        max_length: Tokens a prompt is padded and cut to.
        channels: Width that the denoiser expects.

    Raises:
        VaderError: The folder is not a T5, or one of another width.
    """

    def __init__(
        self, folder: Path, *, device: torch.device, dtype: torch.dtype, max_length: int, channels: int
    ) -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        encoder, tokenizer = folder, folder
        if (folder / "text_encoder").is_dir():
            encoder, tokenizer = folder / "text_encoder", folder / "tokenizer"
        what = "backbone 'easyanimate' (text encoder, a T5)"
        self.tokenizer = from_folder(AutoTokenizer, tokenizer, what=what)
        model = from_folder(T5EncoderModel, encoder, what=what, dtype=dtype)
        if model.config.d_model != channels:
            raise VaderError(
                f"backbone 'easyanimate' (text encoder): {folder} has width {model.config.d_model}, "
                f"but the denoiser expects {channels}"
            )
        self.model: Any = model.requires_grad_(False).eval()
        self.device = device
        self.max_length = max_length

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode texts.

        Returns:
            ``embeddings`` [n, max_length, channels] float32, zero behind a text's end (the denoiser does not
            look there), and ``mask`` [n, max_length] bool.
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


@torch.no_grad()
def merge_text_lora(model: nn.Module, path: Path, scale: float) -> int:
    """Add the text encoder's part of a LoRA file to T5's weights; the sum is made in float32.

    Args:
        model: A ``T5EncoderModel``, changed in place.
        path: A file with ``lora_te_…`` names.
        scale: How strongly the LoRA counts.

    Returns:
        How many modules were changed.

    Raises:
        VaderError: The file has no such part, or it was made for another model.
    """
    pairs = read_pairs(path, text=True)
    if not pairs:
        raise VaderError(f"-o backbone.text_lora={path}: the file holds nothing for the text encoder")
    modules = dict(model.named_modules())
    for name, pair in pairs.items():
        layer = modules.get(name)
        shape = (len(pair.up), pair.down.shape[1])
        if not isinstance(layer, nn.Linear) or tuple(layer.weight.shape) != shape:
            raise VaderError(
                f"-o backbone.text_lora={path}: it was made for another model: {name} should be a linear "
                f"layer with a weight of {shape}"
            )
        weight = layer.weight
        update = (pair.up.float() @ pair.down.float()).to(weight.device) * (scale * pair.scale)
        weight.copy_(weight.float() + update)
    return len(pairs)


class WordVectors:
    """The text encoder that goes with random weights: every word has its own random vector.

    Args:
        max_length: Tokens a prompt is cut to.
        channels: Width of the vectors.
    """

    def __init__(self, *, max_length: int, channels: int) -> None:
        self.max_length = max_length
        self.channels = channels

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``embeddings`` [n, max_length, channels] and ``mask``: a token a word, and one for the end."""
        embeddings = torch.zeros(len(texts), self.max_length, self.channels)
        mask = torch.zeros(len(texts), self.max_length, dtype=torch.bool)
        for index, text in enumerate(texts):
            words = [*text.split()[: self.max_length - 1], ""]
            embeddings[index, : len(words)] = torch.stack([self._vector(word) for word in words])
            mask[index, : len(words)] = True
        return {"embeddings": embeddings, "mask": mask}

    def _vector(self, word: str) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed("easyanimate word", word))
        return torch.randn(self.channels, generator=generator)
