"""The text encoder's part of a LoRA file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vader_core.errors import VaderError
from vader_easyanimate.lora_format import read_pairs


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
