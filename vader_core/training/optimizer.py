"""The optimizer, its learning rate, and one update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vader_core.errors import MissingDependencyError, VaderError
from vader_core.method.tuning import Tuning
from vader_core.parallel.whole import piece_like, whole
from vader_core.run.config import TrainerSection
from vader_core.training import learning_rate as schedules
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
    """The learning rate of step ``step`` (from 0), as ``trainer.lr_schedule`` says."""
    lr, warmup = trainer.lr, trainer.warmup_steps
    if trainer.lr_schedule == "linear_warmup":
        return schedules.linear_warmup(step, lr, warmup)
    if trainer.lr_schedule == "warmup_from_zero":
        return schedules.warmup_from_zero(step, lr, warmup)
    if trainer.lr_schedule == "cosine_const":
        return schedules.cosine_const(step, lr, warmup)
    if trainer.lr_schedule == "one_cycle":
        assert trainer.min_lr is not None
        assert trainer.final_lr is not None
        return schedules.one_cycle(
            step,
            min_lr=trainer.min_lr,
            max_lr=lr,
            final_lr=trainer.final_lr,
            warmup=warmup,
            cooldown=trainer.cooldown_steps,
        )
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * _left(trainer, step)


def _left(trainer: TrainerSection, step: int) -> float:
    """The share of the learning rate that is left after the warm-up."""
    if trainer.lr_schedule == "constant":
        return 1.0
    span = max(1, trainer.max_steps - trainer.warmup_steps)
    done = min(1.0, (step - trainer.warmup_steps) / span)
    return 1.0 - done if trainer.lr_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def check_schedule(trainer: TrainerSection) -> None:
    """Refuse options of another schedule, and a schedule without what it needs.

    Raises:
        VaderError: Naming the option.
    """
    own = {
        "min_lr": trainer.min_lr is not None,
        "final_lr": trainer.final_lr is not None,
        "cooldown_steps": trainer.cooldown_steps > 0,
    }
    if trainer.lr_schedule == "one_cycle":
        missing = [name for name, given in own.items() if not given]
        if missing:
            raise VaderError(f"trainer.lr_schedule=one_cycle needs trainer.{missing[0]}: give it")
        return
    idle = [name for name, given in own.items() if given]
    if idle:
        raise VaderError(
            f"trainer.{idle[0]} belongs to trainer.lr_schedule=one_cycle, not to {trainer.lr_schedule}: "
            "leave it out"
        )


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
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters, self.trainer.max_grad_norm)))
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
        self.optimizer.load_state_dict(self._cut(state["optimizer"]))
        if self.processes.scaler is not None and "scaler" in state:
            self.processes.scaler.load_state_dict(state["scaler"])

    def _cut(self, state: dict[str, Any]) -> dict[str, Any]:
        """The optimizer's state in the pieces that the parameters are in."""
        moments = {
            index: {
                name: piece_like(value, self.parameters[index])
                if isinstance(value, Tensor) and value.shape == self.parameters[index].shape
                else value
                for name, value in held.items()
            }
            for index, held in state["state"].items()
        }
        return {**state, "state": moments}
