"""One process or several, which train together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

#: How long a process waits for the others.
TIMEOUT = timedelta(hours=4)


class SingleProcess:
    """A process that trains alone.

    Args:
        device: Where it computes.
        loss_scale: Scale the loss, as fp16 needs.
    """

    def __init__(self, device: torch.device, *, loss_scale: bool = False) -> None:
        self.device = device
        #: The loss scaler of fp16; ``None`` elsewhere.
        self.scaler = torch.amp.GradScaler(device.type) if loss_scale else None

    @property
    def here(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        return 0, 1

    @property
    def count(self) -> int:
        """How many train together."""
        return self.here[1]

    @property
    def first(self) -> bool:
        """Whether this process writes the run."""
        return self.here[0] == 0

    # -- agreeing ----------------------------------------------------------------------------------------

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the processes."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, in the order of their ranks."""
        return [value]

    def from_first(self, value: Any) -> Any:
        """The first process's ``value``."""
        return value

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return max(self.gather(number))

    def wait(self) -> None:
        """Until every process is here."""

    # -- gradients ---------------------------------------------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        """Send a loss back, scaled where a scaler is on."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """One mean over all processes, of all gradients at once."""


class SeveralProcesses(SingleProcess):
    """Processes that each hold the whole model and average their gradients, one per device.

    Made in each process that torch's launcher started.

    Args:
        device: Where this one computes.
        loss_scale: Scale the loss, as fp16 needs.
    """

    def __init__(self, device: torch.device, *, loss_scale: bool = False) -> None:
        super().__init__(device, loss_scale=loss_scale)
        if not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            # Objects travel as bytes over gloo, whatever the gradients do.
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT)

    @property
    def here(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        return dist.get_rank(), dist.get_world_size()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the processes."""
        total = value.detach().to(self.device).clone()
        dist.all_reduce(total)
        return total / self.count

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, in the order of their ranks."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def from_first(self, value: Any) -> Any:
        """The first process's ``value``."""
        shared = [value]
        dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def wait(self) -> None:
        """Until every process is here."""
        dist.barrier()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """One mean over all processes, of all gradients at once."""
        flat = self.mean(torch.cat([_gradient(parameter).flatten() for parameter in parameters]))
        offset = 0
        for parameter in parameters:
            count = parameter.numel()
            parameter.grad = flat[offset : offset + count].view_as(parameter).clone()
            offset += count


def join_processes(device: torch.device, *, loss_scale: bool = False) -> SingleProcess:
    """The processes that this one was started with: several under torch's launcher, else itself alone.

    Args:
        device: Where this one computes.
        loss_scale: Scale the loss, as fp16 needs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return SeveralProcesses(device, loss_scale=loss_scale)
    return SingleProcess(device, loss_scale=loss_scale)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
