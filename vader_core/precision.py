"""Parts that compute in their own dtype, whatever the run's autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor

#: Asked for every LoRA layer and norm of a pass, and torch answers it in Python each time.
_has_autocast = lru_cache(torch.amp.is_autocast_available)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Within, autocast is off on ``device``; a device that has none (meta) is left alone."""
    # torch 2.11's compiler cannot follow the question, and compiles for no device without autocast.
    if not torch.compiler.is_compiling() and not _has_autocast(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype for what must not be rounded beside values of ``dtype``: float32, float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are in float64."""
    return values.to(wide(values.dtype))
