"""Random numbers that depend on what they are for, never on who draws them.

Every draw has its own generator, derived from (seed, step, micro-step, purpose, global sample index). The
rank and the number of processes are no part of it, so one process with batch 2 and two with batch 1 see the
same noise and the same prompts. Draws happen on the CPU in float32, so that every device sees the same
numbers. No global state is read or changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vader_core.device import to_device
from vader_core.precision import wide

Key = int | str


def derive_seed(*key: Key) -> int:
    """A 63-bit seed from a sequence of numbers and words; equal keys give equal seeds on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Randomness:
    """The random numbers of one micro-step.

    Args:
        seed: The run's seed.
        step: Optimizer step, or any number that names the occasion.
        micro_step: Position within an accumulated step.
        samples: Global index of each sample of the local batch; its length is B.
        scope: Further words that set nested occasions apart (a segment, validation).
    """

    seed: int
    step: int = 0
    micro_step: int = 0
    samples: tuple[int, ...] = (0,)
    scope: tuple[Key, ...] = ()

    def within(self, *scope: Key) -> Randomness:
        """The same occasion's numbers for a nested purpose, e.g. ``rng.within("segment", 1)``."""
        return replace(self, scope=self.scope + scope)

    def generator(self, purpose: str, *, sample: int | None = None) -> torch.Generator:
        """A fresh CPU generator for ``purpose``, or for one sample (a position in the batch) of it."""
        where: tuple[Key, ...] = (self.seed, *self.scope, self.step, self.micro_step, purpose)
        if sample is not None:
            # A sample's numbers follow its global index alone: how the steps cut the stream must not matter.
            where = (self.seed, *self.scope, purpose, self.samples[sample])
        return torch.Generator().manual_seed(derive_seed(*where))

    def normal(
        self,
        purpose: str,
        shape: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normal numbers, one independent stream a sample.

        Args:
            purpose: What they are for, e.g. ``"noise"``.
            shape: Shape of one sample, without the batch axis.
            device: Where the result goes; the drawing happens on the CPU.
            dtype: Of the result; drawn in float32 (in float64 when asked for float64).

        Returns:
            Tensor [B, *shape].
        """
        drawn = wide(dtype)
        rows = [
            torch.randn(tuple(shape), generator=self.generator(purpose, sample=index), dtype=drawn)
            for index in range(len(self.samples))
        ]
        return to_device(torch.stack(rows).to(dtype), device)

    def uniform(self, purpose: str) -> Tensor:
        """One number in [0, 1) per sample, each of its own stream: float64 [B], on the CPU."""
        rows = [
            torch.rand((), generator=self.generator(purpose, sample=index), dtype=torch.float64)
            for index in range(len(self.samples))
        ]
        return torch.stack(rows)

    def integer(self, purpose: str, low: int, high: int) -> int:
        """One integer in [low, high), shared by the whole batch and by every process."""
        return int(torch.randint(low, high, (1,), generator=self.generator(purpose)).item())
