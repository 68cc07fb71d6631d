"""Encodings for pipelines without weights: numbers that depend on the words alone.

Random weights know no language, so a text encoder of billions of random numbers would be memory for nothing.
Each text has its own encoding, of the shape that the model's encoder would give it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vader_core.randomness import derive_seed


def random_encodings(
    texts: Sequence[str], shapes: Mapping[str, tuple[int, ...]], *, dtype: torch.dtype, zeros_behind: bool
) -> dict[str, Tensor]:
    """Standard normal encodings, and masks of one token per word and one more.

    Args:
        texts: N of them.
        shapes: Of one text by name. ``(length,)`` under a name that begins with ``mask`` is a mask.
        dtype: Of the encodings; drawn in float32.
        zeros_behind: Whether encodings [length, d] are zero behind the text.

    Returns:
        Tensors [N, …] on the CPU; masks are of the same dtype, ones first.
    """
    rows = [_row(text, shapes, zeros_behind) for text in texts]
    return {name: torch.stack([row[name] for row in rows]).to(dtype) for name in shapes}


def _row(text: str, shapes: Mapping[str, tuple[int, ...]], zeros_behind: bool) -> dict[str, Tensor]:
    tokens = len(text.split()) + 1
    found = {}
    for name, shape in shapes.items():
        if name.startswith("mask"):
            found[name] = (torch.arange(shape[0]) < tokens).float()
            continue
        generator = torch.Generator().manual_seed(derive_seed("random text", name, text))
        found[name] = torch.randn(shape, generator=generator)
        if zeros_behind and len(shape) == 2:
            found[name][tokens:] = 0.0
    return found
