"""The tiny model that these tests share."""

from __future__ import annotations

import torch
from vader_opensora.backbone import OpenSora
from vader_opensora.options import OpenSoraOptions

from vader_core.geometry import Geometry

OPTIONS = {"weights": "random", "architecture": "tiny"}
SMALL = Geometry(height=32, width=48, num_frames=17, fps=24.0)
CPU = torch.device("cpu")


def bare(**options) -> OpenSora:
    """A backbone that is not loaded."""
    return OpenSora(OpenSoraOptions(**options), device=CPU, dtype=torch.float32)


def make(dtype=torch.float32, **options) -> OpenSora:
    """A loaded tiny backbone."""
    backbone = OpenSora(OpenSoraOptions(**{**OPTIONS, **options}), device=CPU, dtype=dtype)
    backbone.load()
    return backbone
