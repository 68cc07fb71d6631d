"""Gradient checkpointing of foreign modules, block by block.

Blocks drop their activations in the forward pass and compute them again in the backward pass. Values and
gradients are the same to the last bit, because the random state (dropout) is restored for the second pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class RecomputeSwitch:
    """Turns recomputation on and off for every block that shares it."""

    def __init__(self) -> None:
        self.on = False


_SUBCLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass of ``kind`` that recomputes; one per class, however many models are built."""
    if kind not in _SUBCLASSES:
        _SUBCLASSES[kind] = _subclass(kind)
    return _SUBCLASSES[kind]


def _subclass(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = super(subclass, self).forward
        if self.surround is not None:
            plain = self.surround(plain)
        if not (self.recompute_switch.on and torch.is_grad_enabled()):
            return plain(*args, **kwargs)
        return checkpoint(plain, *args, use_reentrant=False, **kwargs)

    # A subclass rather than a wrapping module or an instance attribute: names in the state dict, isinstance
    # checks and copies all stay as they were.
    # `surround` is put around each run of the block, that in the backward pass too.
    own = {"forward": forward, "__doc__": kind.__doc__, "surround": None}
    subclass: type[nn.Module] = type(kind.__name__, (kind,), own)
    return subclass


def surround(block: Any, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put ``around`` about each run of ``block``, that in the backward pass too; changed in place."""
    if hasattr(block, "surround"):  # it recomputes within its own forward pass
        block.surround = around
    else:
        block.forward = around(block.forward)


def recompute_blocks(module: nn.Module, kinds: tuple[type[nn.Module], ...], switch: RecomputeSwitch) -> int:
    """Make every block of ``kinds`` within ``module`` recompute its activations while ``switch`` is on.

    Args:
        module: Searched through; changed in place.
        kinds: Classes of the blocks, none of which is the subclass of another.
        switch: Read at every forward pass; has an effect only where gradients are recorded.

    Returns:
        How many blocks there are.
    """
    blocks = [block for block in module.modules() if isinstance(block, kinds)]
    for block in blocks:
        block.__class__ = _recomputing(type(block))
        block.recompute_switch = switch  # type: ignore[assignment]
    return len(blocks)
