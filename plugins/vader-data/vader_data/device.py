"""Where a network runs."""

from __future__ import annotations

import torch

from vader_core.errors import VaderError


def chosen_device(name: str | None) -> torch.device:
    """``name``, or the GPU where there is one.

    Raises:
        VaderError: CUDA was asked for and is not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise VaderError(f"device {name!r}: no CUDA device is available here; use cpu, or see `vader doctor`")
    return torch.device(name)
