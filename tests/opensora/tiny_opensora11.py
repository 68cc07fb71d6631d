"""The tiny 1.1 model that these tests share."""

from __future__ import annotations

import torch
from vader_opensora.v11.backbone import OpenSora11
from vader_opensora.v11.options import OpenSora11Options

from vader_core.geometry import Geometry

OPTIONS = {"weights": "random", "architecture": "tiny"}
SMALL = Geometry(height=32, width=48, num_frames=4, fps=8.0)
CPU = torch.device("cpu")


def bare(**options) -> OpenSora11:
    """A backbone that is not loaded."""
    return OpenSora11(OpenSora11Options(**options), device=CPU, dtype=torch.float32)


def make(dtype=torch.float32, **options) -> OpenSora11:
    """A loaded tiny backbone."""
    backbone = OpenSora11(OpenSora11Options(**{**OPTIONS, **options}), device=CPU, dtype=dtype)
    backbone.load()
    return backbone
