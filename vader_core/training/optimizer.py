"""The optimizer, its learning rate, and one update."""

from __future__ import annotations

import math
from typing import Any

import torch

from vader_core.errors import MissingDependencyError
from vader_core.run.config import TrainerSection


def make_optimizer(parameters: list[torch.nn.Parameter], trainer: TrainerSection) -> torch.optim.Optimizer:
    """AdamW over the adapter; fused on CUDA.

    Raises:
        MissingDependencyError: ``adamw8bit`` without bitsandbytes.
    """
    options: dict[str, Any] = {
        "lr": trainer.lr,
        "betas": (trainer.beta1, trainer.beta2),
        "weight_decay": trainer.weight_decay,
    }
    if trainer.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise MissingDependencyError(
                "bitsandbytes", "trainer.optimizer=adamw8bit", "pip install bitsandbytes"
            ) from error
        made: torch.optim.Optimizer = AdamW8bit(parameters, **options)
        return made
    return torch.optim.AdamW(parameters, fused=parameters[0].is_cuda, **options)


def learning_rate(trainer: TrainerSection, step: int) -> float:
    """The learning rate of step ``step`` (from 0): linear warm-up, then constant, linear or cosine to 0."""
    if step < trainer.warmup_steps:
        return trainer.lr * (step + 1) / trainer.warmup_steps
    if trainer.lr_schedule == "constant":
        return trainer.lr
    span = max(1, trainer.max_steps - trainer.warmup_steps)
    done = min(1.0, (step - trainer.warmup_steps) / span)
    share = 1.0 - done if trainer.lr_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return trainer.lr * share
