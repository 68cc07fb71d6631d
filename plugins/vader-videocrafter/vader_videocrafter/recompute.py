"""Gradient checkpointing that exists only where a graph is being recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def call(module: nn.Module, enabled: bool, *args: Any) -> Tensor:
    """Calls `module(*args)`; where `enabled` and a graph is recorded, its activations are recomputed later.

    The random state is not saved: nothing in the network draws random numbers.
    """
    if enabled and torch.is_grad_enabled():
        return checkpoint(module, *args, use_reentrant=False, preserve_rng_state=False)
    return module(*args)
