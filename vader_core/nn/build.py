"""How networks are made."""

from __future__ import annotations

from torch import nn


def frozen(module: nn.Module) -> nn.Module:
    """``module`` frozen and in eval mode."""
    return module.requires_grad_(False).eval()
