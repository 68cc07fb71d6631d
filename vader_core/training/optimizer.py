"""The optimizer, its learning rate, and one update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from vader_core.assembly.levers import OPTIMIZER_LIBRARIES
from vader_core.errors import MissingDependencyError, VaderError
from vader_core.method.tuning import Tuning
from vader_core.parallel.whole import piece_like, whole
from vader_core.run.config import TrainerSection
from vader_core.run.stages import ALONE, Place
from vader_core.training import learning_rate as schedules
from vader_core.training.processes import SingleProcess
from vader_core.tuning.full import lies_in

Backward = Callable[[Tensor], None]


#: The classes of optimizers that torch does not have.
_CLASSES = {"adamw8bit": "optim.AdamW8bit", "came": "CAME", "lion": "Lion"}
#: Decay of CAME's squared residuals, as published (arXiv 2307.02047).
_CAME_BETA3 = 0.9999


def make_optimizer(parameters: Mapping[str, nn.Parameter], trainer: TrainerSection) -> torch.optim.Optimizer:
    """The optimizer of what learns; AdamW is fused on CUDA.

    Args:
        parameters: By name.
        trainer: Which one, and its options.

    Raises:
        MissingDependencyError: One whose library is not installed.
        VaderError: ``lr_factors`` names a module in which nothing learns.
    """
    groups = _groups(parameters, trainer.lr_factors)
    own = "lion" if trainer.optimizer == "lion" else "adamw"
    betas = [trainer.beta1, {"lion": 0.99, "adamw": 0.999}[own] if trainer.beta2 is None else trainer.beta2]
    options: dict[str, Any] = {"lr": trainer.lr, "weight_decay": trainer.weight_decay}
    if trainer.optimizer in ("adamw", "adamw8bit"):
        options["eps"] = 1e-8 if trainer.eps is None else trainer.eps
    elif trainer.eps is not None:
        raise VaderError(f"trainer.eps belongs to AdamW, not to {trainer.optimizer}: leave it out")
    if trainer.optimizer == "came":
        betas.append(_CAME_BETA3)
    if trainer.optimizer == "adamw":
        fused = next(iter(parameters.values())).is_cuda
        return torch.optim.AdamW(groups, betas=(betas[0], betas[1]), fused=fused, **options)
    made: torch.optim.Optimizer = _kept_elsewhere(trainer.optimizer)(groups, betas=tuple(betas), **options)
    return made


def _kept_elsewhere(name: str) -> Any:
    library, distribution = OPTIMIZER_LIBRARIES[name]
    *inner, kind = _CLASSES[name].split(".")
    try:
        return getattr(import_module(".".join([library, *inner])), kind)
    except ImportError as error:
        raise MissingDependencyError(
            distribution, f"trainer.optimizer={name}", f"pip install {distribution}"
        ) from error


def _groups(parameters: Mapping[str, nn.Parameter], factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters by the factor of their learning rate, those without one first."""
    groups: dict[str | None, list[nn.Parameter]] = {name: [] for name in (None, *factors)}
    for name, value in parameters.items():
        groups[next((module for module in factors if lies_in(name, module)), None)].append(value)
    idle = [module for module in factors if not groups[module]]
    if idle:
        raise VaderError(
            f"trainer.lr_factors: nothing that learns lies in {idle[0]!r}, or another name took it"
        )
    return [
        {"params": found, "factor": 1.0 if module is None else factors[module]}
        for module, found in groups.items()
        if found
    ]


def learning_rate(trainer: TrainerSection, step: int, place: Place = ALONE) -> float:
    """The learning rate in effect at step ``step``, as ``trainer.lr_schedule`` says.

    Args:
        trainer: Rate and schedule.
        step: Of this run or stage, from 0.
        place: Where a stage's schedule began, and how long it is.
    """
    step += place.schedule_before
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
    return lr * _left(
        trainer, step, trainer.max_steps if place.schedule_steps is None else place.schedule_steps
    )


def _left(trainer: TrainerSection, step: int, steps: int) -> float:
    """The share of the learning rate that is left after the warm-up."""
    if trainer.lr_schedule == "constant":
        return 1.0
    span = max(1, steps - trainer.warmup_steps)
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
        self.optimizer = make_optimizer(tuning.parameters(), trainer)
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
        self.norm = self.finish(loss)

    def finish(self, loss: Tensor) -> float | None:
        """Average, clip and step; the norm, or ``None`` where the step is skipped."""
        self.processes.average_gradients(self.parameters)
        scaler = self.processes.scaler
        if scaler is None:
            found = self._clipped()
            # the device is waited for once: what clips was launched behind the backward pass
            finite, size = torch.stack([torch.isfinite(loss + found).to(found), found]).tolist()
            if not finite:
                self.optimizer.zero_grad(set_to_none=True)
                return None
            self.optimizer.step()
            return float(size)
        if not torch.isfinite(loss):
            self.optimizer.zero_grad(set_to_none=True)
            return None
        scaler.unscale_(self.optimizer)
        norm = float(self._clipped())
        # The scaler skips the step where a gradient overflowed, and says so by lowering its scale.
        before = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        return None if scaler.get_scale() < before else norm

    def _clipped(self) -> Tensor:
        """The gradient's norm, before it was clipped to the largest that is allowed."""
        return whole(nn.utils.clip_grad_norm_(self.parameters, self.trainer.max_grad_norm))

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

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
        """The inverse of :meth:`state`.

        Raises:
            VaderError: It was saved by another optimizer, or with other groups.
        """
        try:
            self.optimizer.load_state_dict(self._cut(state["optimizer"]))
        except (ValueError, KeyError, IndexError) as error:
            raise VaderError(
                "the checkpoint's optimizer is another: trainer.optimizer or trainer.lr_factors changed"
            ) from error
        if self.processes.scaler is not None and "scaler" in state:
            self.processes.scaler.load_state_dict(state["scaler"])

    def _cut(self, state: dict[str, Any]) -> dict[str, Any]:
        """The optimizer's state in the pieces that the parameters are in."""
        order = [one for group in self.optimizer.param_groups for one in group["params"]]
        moments = {
            index: {
                name: piece_like(value, order[index])
                if isinstance(value, Tensor) and value.shape == order[index].shape
                else value
                for name, value in held.items()
            }
            for index, held in state["state"].items()
        }
        return {**state, "state": moments}
