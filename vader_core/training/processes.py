"""One process or several, which train together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from vader_core.errors import MachineError
from vader_core.parallel.layout import Layout, started_together
from vader_core.parallel.news import agree_on_attempt, attempt, lost, meeting_store
from vader_core.parallel.whole import in_pieces

if TYPE_CHECKING:
    from vader_core.parallel.mesh import Mesh


class SingleProcess:
    """A process that trains alone.

    Args:
        device: Where it computes.
        loss_scale: Scale the loss, as fp16 needs.
    """

    layout = Layout()
    #: Those that share weights or a sequence; ``None`` where none do.
    mesh: Mesh | None = None

    def __init__(self, device: torch.device, *, loss_scale: bool = False) -> None:
        self.device = device
        #: The loss scaler of fp16; ``None`` elsewhere.
        self.scaler = torch.amp.GradScaler(device.type) if loss_scale else None

    @property
    def rank(self) -> int:
        """Which of the processes this is."""
        return 0

    @property
    def here(self) -> tuple[int, int]:
        """This process's data-parallel rank, and how many there are: each makes videos of its own."""
        return self.layout.data_rank(self.rank), self.layout.data

    @property
    def count(self) -> int:
        """How many make videos of their own."""
        return self.layout.data

    @property
    def first(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    # -- agreeing ----------------------------------------------------------------------------------------

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the processes."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every data-parallel process's ``value``, in the order of their ranks."""
        return [value]

    def gather_first(self, value: Any) -> list[Any]:
        """The same on the first process; an empty list on the others."""
        return self.gather(value) if self.first else []

    def from_first(self, value: Any) -> Any:
        """The first process's ``value``."""
        return value

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return number

    def wait(self) -> None:
        """Until every process is here."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, a collective that fails because another process is gone is one message.

        Raises:
            LostError: Naming the process.
        """
        yield

    # -- gradients ---------------------------------------------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        """Send a loss back, scaled where a scaler is on."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """One reduction over all processes, of all gradients at once."""


class SeveralProcesses(SingleProcess):
    """Processes that train together, one per device.

    Made in each process that a launcher started.

    Args:
        device: Where this one computes.
        loss_scale: Scale the loss, as fp16 needs.
        layout: Who shares what.
        timeout: Seconds that a process waits for the others.

    Raises:
        MachineError: The processes do not find each other.
    """

    def __init__(
        self, device: torch.device, *, loss_scale: bool = False, layout: Layout, timeout: float = 900.0
    ) -> None:
        super().__init__(device, loss_scale=loss_scale)
        self.layout = layout
        if not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            # Objects travel as bytes over gloo, whatever the gradients do.
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            try:
                limit, store = timedelta(seconds=timeout), meeting_store(timeout)
                if store is None:
                    dist.init_process_group(backend, timeout=limit)
                else:
                    rank = int(os.environ["RANK"])
                    dist.init_process_group(
                        backend, timeout=limit, store=store, rank=rank, world_size=layout.world
                    )
            except (RuntimeError, ValueError) as error:
                place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                reason = str(error).strip().partition("\n")[0][:200]
                raise MachineError(f"the processes did not find each other at {place}: {reason}") from error
            agree_on_attempt(self.largest(attempt()))
        if layout.shard > 1 or layout.context > 1:
            from vader_core.parallel.mesh import Mesh

            self.mesh = Mesh(layout, device, timeout=timeout)

    @property
    def rank(self) -> int:
        """Which of the processes this is."""
        return dist.get_rank()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, a collective that fails because another process is gone is one message.

        Raises:
            LostError: Naming the process.
        """
        try:
            yield
        except RuntimeError as error:
            if not _of_the_others(error):
                raise
            raise lost(error, self.rank, self.layout.world) from error

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the processes."""
        total = value.detach().to(self.device).clone()
        with self.together():
            dist.all_reduce(total)
        return total / self.layout.world

    def gather(self, value: Any) -> list[Any]:
        """Every data-parallel process's ``value``, in the order of their ranks."""
        return self._gather(value)[:: self.layout.context]

    def _gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.layout.world
        with self.together():
            dist.all_gather_object(found, value)
        return found

    def gather_first(self, value: Any) -> list[Any]:
        """The same on the first process; an empty list on the others."""
        found: list[Any] | None = [None] * self.layout.world if self.first else None
        # Those that share a sequence have the same: one of them is enough.
        own = value if self.rank % self.layout.context == 0 else None
        with self.together():
            dist.gather_object(own, found, dst=0)
        return [] if found is None else found[:: self.layout.context]

    def from_first(self, value: Any) -> Any:
        """The first process's ``value``."""
        shared = [value]
        with self.together():
            dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return max(self._gather(number))

    def wait(self) -> None:
        """Until every process is here."""
        self._gather(None)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The sum over those that share a sequence, the mean over all others.

        What is replicated goes in one reduction. What is sharded was averaged over all processes when it was
        sent back.
        """
        for parameter in parameters:
            if in_pieces(parameter) and parameter.grad is not None and self.layout.context > 1:
                parameter.grad.mul_(self.layout.context)
        plain = [parameter for parameter in parameters if not in_pieces(parameter)]
        if not plain:
            return
        flat = self.mean(torch.cat([_gradient(parameter).flatten() for parameter in plain]))
        flat *= self.layout.context
        offset = 0
        for parameter in plain:
            count = parameter.numel()
            parameter.grad = flat[offset : offset + count].view_as(parameter).clone()
            offset += count


def join_processes(
    device: torch.device,
    *,
    loss_scale: bool = False,
    shard: int = 1,
    context: int = 1,
    timeout: float = 900.0,
) -> SingleProcess:
    """The processes that this one was started with: several under a launcher, else itself alone.

    Args:
        device: Where this one computes.
        loss_scale: Scale the loss, as fp16 needs.
        shard: How many share one copy of the frozen weights.
        context: How many share one sequence.
        timeout: Seconds that a process waits for the others.

    Raises:
        VaderError: The layout does not fit the processes.
        MachineError: They do not find each other.
    """
    layout = Layout(started_together(), shard, context)
    layout.check()
    if layout.world > 1:
        return SeveralProcesses(device, loss_scale=loss_scale, layout=layout, timeout=timeout)
    return SingleProcess(device, loss_scale=loss_scale)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


#: How the errors of collectives are told from others that are no class of their own.
_SIGNS = ("gloo", "NCCL", "onnection closed by peer", "onnection reset by peer")


def _of_the_others(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS)
