"""Frame masks: which latent frames a training sample generates, and which it is given.

A configuration gives each kind of mask a probability. ``quarter`` masks give up to a quarter of the frames,
``image`` masks one; at a random place, the head, the tail or both ends. The names are Open-Sora's (1.1 writes
``mask_`` before them); 1.2 adds ``random`` and ``intepolate``, spelled so.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from vader_core.errors import VaderError, unknown

_SIDES = ("random", "head", "tail", "head_tail")
KINDS = (
    "identity",
    "random",
    "intepolate",
    *(f"quarter_{side}" for side in _SIDES),
    *(f"image_{side}" for side in _SIDES),
)


class Draws(Protocol):
    """Where a mask's random numbers come from."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def randint(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""

    def uniform(self, low: float, high: float) -> float:
        """A number between ``low`` and ``high``."""

    def rand(self, count: int) -> Tensor:
        """``count`` numbers in [0, 1), float32."""


class SeededDraws:
    """Draws from one seed.

    Args:
        seed: Names the stream.
    """

    def __init__(self, seed: int) -> None:
        self._numbers = random.Random(seed)
        self._tensors = torch.Generator().manual_seed(seed)

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._numbers.random()

    def randint(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return self._numbers.randint(low, high)

    def uniform(self, low: float, high: float) -> float:
        """A number between ``low`` and ``high``."""
        return self._numbers.uniform(low, high)

    def rand(self, count: int) -> Tensor:
        """``count`` numbers in [0, 1), float32."""
        return torch.rand(count, generator=self._tensors)


class FrameMasks:
    """Masks by their probabilities.

    Args:
        ratios: Kind → probability. What is left of 1 goes to ``identity`` (no frame is given). The order
            counts: one draw walks the kinds in it.

    Raises:
        VaderError: An unknown kind, a probability outside [0, 1], or a sum above 1.
    """

    def __init__(self, ratios: Mapping[str, float]) -> None:
        named = {_kind(name): float(ratio) for name, ratio in ratios.items()}
        if len(named) != len(ratios):
            raise VaderError(f"frame masks: a kind is named twice in {', '.join(ratios)}")
        for kind, ratio in named.items():
            if not 0 <= ratio <= 1:
                raise VaderError(f"frame masks: {kind}: {ratio} is not a probability between 0 and 1")
        total = sum(named.values())
        if total > 1 + 1e-6:
            raise VaderError(f"frame masks: the probabilities add up to {total:g}, more than 1")
        # Tiny remainders of a sum that was meant to be 1 must not fall to the last kind named.
        named["identity"] = named.get("identity", 0.0) + max(0.0, 1 - total)
        self.ratios: Mapping[str, float] = named

    def draw(self, frames: int, draws: Draws) -> Tensor:
        """One sample's mask: bool [T], True = generated.

        Args:
            frames: T, latent frames. A single frame is always generated.
            draws: Used in the order kind, size, start.
        """
        kind = self._pick(draws.random())
        mask = torch.ones(frames, dtype=torch.bool)
        if frames <= 1 or kind == "identity":
            return mask
        if kind == "random":
            return _scattered(frames, draws)
        if kind == "intepolate":
            mask[draws.randint(0, 1) :: 2] = False
            return mask
        extent, side = kind.split("_", 1)
        # With two or three frames a quarter is none; the original raises there, one frame is meant.
        size = draws.randint(1, max(1, frames // 4)) if extent == "quarter" else 1
        if side == "random":
            start = draws.randint(0, frames - size)
            mask[start : start + size] = False
        if side in ("head", "head_tail"):
            mask[:size] = False
        if side in ("tail", "head_tail"):
            mask[frames - size :] = False
        return mask

    def _pick(self, number: float) -> str:
        reached = 0.0
        for kind, ratio in self.ratios.items():
            reached += ratio
            if number < reached:
                return kind
        return "identity"


def _kind(name: str) -> str:
    kind = {"no": "identity"}.get(name.removeprefix("mask_"), name.removeprefix("mask_"))
    if kind not in KINDS:
        raise unknown("frame mask", name, KINDS)
    return kind


def _scattered(frames: int, draws: Draws) -> Tensor:
    ratio = draws.uniform(0.1, 0.9)
    mask = draws.rand(frames) > ratio
    if not mask.any():
        mask[-1] = True
    return mask
