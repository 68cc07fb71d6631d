"""Which prompts a micro-step is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vader_core.geometry import Geometry
from vader_core.method.objective import Batch, Batches
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness


def own_samples(number: int, rank: int, world: int, size: int) -> list[int]:
    """The global indices of one process's samples in the ``number``-th micro-step of the whole run.

    >>> own_samples(1, 0, 2, 3)
    [6, 7, 8]
    """
    start = (number * world + rank) * size
    return list(range(start, start + size))


@dataclass(frozen=True)
class PromptBatches:
    """Prompts in the source's order, all at one geometry.

    Args:
        draw: Prompts by their global index.
        geometry: Of every video.
        seed: The run's.
        size: Videos per process in each micro-step.
        accumulate: Micro-steps per optimizer step.
    """

    draw: Callable[[list[int]], Sequence[Prompt]]
    geometry: Geometry
    seed: int
    size: int
    accumulate: int

    def at(self, step: int, micro: int, rank: int, world: int) -> Mapping[str, Batch]:
        """The batch of one micro-step; the stream of samples does not depend on how many processes cut it."""
        indices = own_samples(step * self.accumulate + micro, rank, world, self.size)
        rng = Randomness(self.seed, step, micro, tuple(indices))
        return {"prompts": Batch(self.draw(indices), self.geometry, rng)}


@dataclass(frozen=True)
class JoinedBatches:
    """Batches of several kinds side by side, for objectives that each need their own.

    Args:
        parts: Each gives its kind.
    """

    parts: Sequence[Batches]

    def at(self, step: int, micro: int, rank: int, world: int) -> Mapping[str, Batch]:
        """The batches of one micro-step, by what is needed."""
        found: dict[str, Batch] = {}
        for part in self.parts:
            found |= part.at(step, micro, rank, world)
        return found
