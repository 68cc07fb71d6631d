"""Learning rates by optimizer step: the schedules of the published recipes, number for number.

Every function gives the rate that is in effect at step ``k``, counted from 0.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

# text2bricks starts its warm-up here, whatever the rate.
_FLOOR = 1e-7


def linear_warmup(k: int, lr: float, steps: int) -> float:
    """Open-Sora 1.2: a straight line whose step ``steps`` is the first at ``lr``.

    >>> linear_warmup(999, 1e-4, 1000) < linear_warmup(1000, 1e-4, 1000) == 1e-4
    True
    """
    return lr * min(1.0, (k + 1) / (steps + 1))


def warmup_from_zero(k: int, lr: float, steps: int) -> float:
    """diffusers, EasyAnimate: a straight line from 0 at step 0 to ``lr`` at step ``steps``."""
    return lr * min(1.0, k / max(1, steps))


def linear(k: int, lr: float, warmup: int, steps: int) -> float:
    """diffusers: ``warmup_from_zero``, then a straight line to 0 at step ``steps``."""
    if k < warmup:
        return warmup_from_zero(k, lr, warmup)
    return lr * max(0.0, (steps - k) / max(1, steps - warmup))


def cosine(k: int, lr: float, warmup: int, steps: int) -> float:
    """diffusers: ``warmup_from_zero``, then half a cosine to 0 at step ``steps``."""
    if k < warmup:
        return warmup_from_zero(k, lr, warmup)
    done = (k - warmup) / max(1, steps - warmup)
    return lr * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def cosine_const(k: int, lr: float, warmup: int) -> float:
    """text2bricks: half a cosine from 1e-7 up to ``lr``, then constant; ahead by one step.

    Computed in float32, as the original is: at small rates the difference shows.
    """
    share = 0.5 * (1 - torch.cos(torch.tensor(math.pi * min(1.0, (k + 1) / max(1, warmup)))))
    return float(_FLOOR + (lr - _FLOOR) * share)


def one_cycle(
    k: int,
    *,
    min_lr: float,
    max_lr: float,
    final_lr: float,
    warmup: int,
    cooldown: int,
    anneal: Literal["cos", "linear"] = "cos",
) -> float:
    """text2bricks: up from ``min_lr`` to ``max_lr``, down to ``final_lr``, then constant.

    Args:
        k: Optimizer step, from 0.
        min_lr: At step 0.
        max_lr: At step ``warmup``.
        final_lr: From step ``warmup + cooldown`` on.
        warmup: Steps of the way up.
        cooldown: Steps of the way down.
        anneal: Shape of both ways; cosines are computed in float32, as the original's are.
    """
    between = _half_cosine if anneal == "cos" else _straight
    if k < warmup:
        return between(min_lr, max_lr, k / warmup)
    if k < warmup + cooldown:
        return between(max_lr, final_lr, (k - warmup) / cooldown)
    return final_lr


def _half_cosine(start: float, end: float, share: float) -> float:
    return float(end + (start - end) / 2 * (torch.cos(torch.tensor(math.pi * share)) + 1))


def _straight(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
