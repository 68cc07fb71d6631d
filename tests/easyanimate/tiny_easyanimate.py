"""The tiny model that these tests share."""

from __future__ import annotations

import torch
from vader_easyanimate.backbone import EasyAnimate
from vader_easyanimate.options import EasyAnimateOptions

from vader_core.geometry import Geometry

OPTIONS = {"weights": "random", "architecture": "tiny"}
SMALL = Geometry(height=64, width=80, num_frames=18, fps=24.0)
CPU = torch.device("cpu")


def bare(**options) -> EasyAnimate:
    """A backbone that is not loaded."""
    return EasyAnimate(EasyAnimateOptions(**options), device=CPU, dtype=torch.float32)


def make(dtype=torch.float32, **options) -> EasyAnimate:
    """A loaded tiny backbone."""
    backbone = EasyAnimate(EasyAnimateOptions(**{**OPTIONS, **options}), device=CPU, dtype=dtype)
    backbone.load()
    return backbone
