"""Encoded prompts, and the cache that keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Text:
    """Encoded prompts, with their negative side. Every tensor has the batch axis first.

    Args:
        positive: The prompts' encodings by name, e.g. ``{"embeddings": [B, l, d], "mask": [B, l]}``.
        negative: The same names for the negative prompts.
    """

    positive: Tensors
    negative: Tensors

    def __len__(self) -> int:
        return len(next(iter(self.positive.values())))


class TextCache:
    """Encodings by content, kept on the CPU and, where a directory is given, on disk.

    Args:
        key: Words that set this encoder apart from every other (weights, length, dtype); part of the content
            hash.
        directory: Where files are kept as safetensors between runs; ``None`` keeps them in memory alone.
    """

    def __init__(self, key: str, directory: Path | None = None) -> None:
        self.key = key
        self.directory = directory
        self._held: dict[str, dict[str, Tensor]] = {}

    def _name(self, text: str) -> str:
        return hashlib.sha256(f"{self.key}\0{text}".encode()).hexdigest()

    def get(self, text: str) -> dict[str, Tensor] | None:
        """The encoding of ``text`` (tensors without a batch axis), or ``None``."""
        if text in self._held:
            return self._held[text]
        if self.directory is None:
            return None
        path = self.directory / f"{self._name(text)}.safetensors"
        if not path.is_file():
            return None
        from safetensors.torch import load_file

        self._held[text] = load_file(path)
        return self._held[text]

    def put(self, text: str, tensors: Tensors) -> None:
        """Keep the encoding of ``text``; a file is written beside its place and renamed into it."""
        held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        self._held[text] = held
        if self.directory is None:
            return
        from vader_core.weights import save_tensors

        self.directory.mkdir(parents=True, exist_ok=True)
        save_tensors(held, self.directory / f"{self._name(text)}.safetensors")
