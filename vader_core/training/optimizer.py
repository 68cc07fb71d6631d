"""The optimizer, its learning rate, and one update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vader_core.errors import MissingDependencyError
from vader_core.method.tuning import Tuning
from vader_core.run.config import TrainerSection
from vader_core.training.processes import SingleProcess

Backward = Callable[[Tensor], None]


def make_optimizer(parameters: list[torch.nn.Parameter], trainer: TrainerSection) -> torch.optim.Optimizer:
    """AdamW over what learns; fused on CUDA.

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


class Updates:
    """Optimizer updates of what learns: zero, accumulate, average, clip, step or skip.

    Args:
        tuning: What learns.
        trainer: Optimizer, accumulation, clipping.
        processes: Average their gradients.
    """

    def __init__(self, tuning: Tuning, trainer: TrainerSection, processes: SingleProcess) -> None:
        self.trainer = trainer
        self.processes = processes
        self.parameters = list(tuning.parameters().values())
        self.optimizer = make_optimizer(self.parameters, trainer)
        #: Norm of the last update's gradient before clipping; ``None`` where the update was skipped.
        self.norm: float | None = None

    @contextmanager
    def update(self) -> Iterator[Backward]:
        """One update around its backward passes; gives the function that sends a micro-step's loss back.

        It is skipped where a loss or the gradient is not finite on any process.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total: list[Tensor] = []

        def backward(loss: Tensor) -> None:
            total.append(loss.detach().float())
            self.processes.backward(loss / self.trainer.accumulate)

        yield backward
        loss = self.processes.mean(torch.stack(total).sum())
        self.norm = self.finish(bool(torch.isfinite(loss)))

    def finish(self, finite: bool) -> float | None:
        """Average, clip and step; the norm, or ``None`` where the step is skipped."""
        self.processes.average_gradients(self.parameters)
        if not finite:
            self.optimizer.zero_grad(set_to_none=True)
            return None
        scaler = self.processes.scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.trainer.max_grad_norm))
        if scaler is None:
            if not math.isfinite(norm):
                self.optimizer.zero_grad(set_to_none=True)
                return None
            self.optimizer.step()
            return norm
        # The scaler skips the step where a gradient overflowed, and says so by lowering its scale.
        before = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        return None if scaler.get_scale() < before else norm

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def forget(self) -> None:
        """Drop the moments."""
        self.optimizer.state.clear()

    def state(self) -> dict[str, Any]:
        """Plain containers of tensors and numbers, for a checkpoint."""
        found = {"optimizer": self.optimizer.state_dict()}
        if self.processes.scaler is not None:
            found["scaler"] = self.processes.scaler.state_dict()
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.processes.scaler is not None and "scaler" in state:
            self.processes.scaler.load_state_dict(state["scaler"])
