"""How the processes of a run are laid out: arithmetic alone, known before any of them is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vader_core.errors import VaderError

#: What every launcher tells a process of several.
_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Layout:
    """Neighbours share a sequence, neighbours share the frozen weights, and all else is data parallel.

    Args:
        world: How many processes there are.
        shard: How many share one copy of the frozen weights.
        context: How many share one sequence.
    """

    world: int = 1
    shard: int = 1
    context: int = 1

    def check(self) -> None:
        """Refuse what does not divide the processes.

        Raises:
            VaderError: Saying what would.
        """
        for name, size in (("shard", self.shard), ("context", self.context)):
            if self.world % size:
                fits = [str(one) for one in range(1, self.world + 1) if self.world % one == 0]
                raise VaderError(
                    f"parallel.{name}={size} does not divide the {self.world} processes of this run: use "
                    f"{' or '.join(fits)}, or another --num-processes"
                )

    @property
    def data(self) -> int:
        """How many data-parallel ranks there are: each makes videos of its own."""
        return self.world // self.context

    def data_rank(self, rank: int) -> int:
        """The data-parallel rank of process ``rank``."""
        return rank // self.context

    def accumulate(self, accumulate: int, batch_size: int, global_batch: int | None) -> int:
        """Micro-steps per optimizer step, where ``trainer.global_batch`` fixes their product.

        Args:
            accumulate: What ``trainer.accumulate`` asks for.
            batch_size: Videos per process in each micro-step.
            global_batch: Videos per optimizer step over all processes; ``None`` leaves ``accumulate``.

        Raises:
            VaderError: They cannot make up the global batch.

        >>> Layout(world=4).accumulate(1, 2, 32)
        4
        """
        if global_batch is None:
            return accumulate
        if accumulate != 1:
            raise VaderError(
                "trainer.global_batch says how much is accumulated, and so does trainer.accumulate: leave "
                "one out"
            )
        at_once = batch_size * self.data
        if global_batch % at_once:
            raise VaderError(
                f"trainer.global_batch={global_batch} is no multiple of {batch_size} (--batch-size) x "
                f"{self.data} (processes): use another --batch-size, or a multiple of {at_once}"
            )
        return global_batch // at_once


def started_together(environment: Mapping[str, str] | None = None) -> int:
    """How many processes a launcher started together with this one; 1 without a launcher.

    Args:
        environment: What the launcher told; this process's own by default.

    Raises:
        VaderError: It told a part of it, as a scheduler does that is no launcher.
    """
    told = os.environ if environment is None else environment
    count = told.get("WORLD_SIZE", "1")
    if not count.isdigit() or int(count) < 1:
        raise VaderError(f"WORLD_SIZE={count!r} is no number of processes: unset it")
    if int(count) == 1:
        return 1
    missing = [name for name in _TOLD if name not in told]
    if missing:
        raise VaderError(
            f"WORLD_SIZE={count} says that {count} processes were started together, but "
            f"{', '.join(missing)} is not set: start them with torchrun, or unset WORLD_SIZE and give "
            "--num-processes"
        )
    return int(count)
