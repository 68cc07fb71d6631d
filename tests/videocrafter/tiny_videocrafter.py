"""A tiny VideoCrafter2 and an official checkpoint file of its sizes."""

from __future__ import annotations

import torch
from torch import Tensor
from vader_videocrafter.architecture import TINY
from vader_videocrafter.backbone import VideoCrafter
from vader_videocrafter.checkpoint import official_manifest
from vader_videocrafter.options import VideoCrafterOptions
from vader_videocrafter.schedule import clean_scale, videocrafter_schedule


def make_backbone(*, dtype: torch.dtype = torch.float32, **options) -> VideoCrafter:
    given = {"weights": "random", "architecture": "tiny", **options}
    return VideoCrafter(VideoCrafterOptions(**given), device=torch.device("cpu"), dtype=dtype)


def official_tensors() -> dict[str, Tensor]:
    """What the official code would save for the tiny sizes: random weights, the true schedule."""
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.1 for name, shape in official_manifest(TINY).items()
    }
    tensors["alphas_cumprod"] = videocrafter_schedule().alphas_cumprod.float()
    tensors["scale_arr"] = clean_scale(1400).float()
    return tensors
