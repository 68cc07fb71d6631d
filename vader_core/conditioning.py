"""What the denoiser is given beside latents and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vader_core.errors import VaderError
from vader_core.text import Tensors


@dataclass(frozen=True)
class Conditioning:
    """All that the denoiser is given beside latents and time. Opaque to the core but for the batch axis.

    Args:
        tensors: [B, …] each.
        unconditional: The same names for the unconditional branch; ``None`` where guidance is impossible.
        shared: What does not depend on the sample (a geometry, a flag); equal in every part of a batch.
    """

    tensors: Tensors
    unconditional: Tensors | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: slice) -> Conditioning:
        """The samples of ``index``."""
        unconditional = None
        if self.unconditional is not None:
            unconditional = {name: value[index] for name, value in self.unconditional.items()}
        return Conditioning(
            {name: value[index] for name, value in self.tensors.items()}, unconditional, self.shared
        )

    @property
    def conditional_branch(self) -> Conditioning:
        """The conditional branch alone."""
        return Conditioning(self.tensors, None, self.shared)

    @property
    def unconditional_branch(self) -> Conditioning:
        """The unconditional branch, as a conditioning of its own.

        Raises:
            VaderError: The backbone made none.
        """
        if self.unconditional is None:
            raise VaderError("this backbone has no unconditional branch: use --guidance-scale 1")
        return Conditioning(self.unconditional, None, self.shared)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The parts as one batch, in order. ``shared`` is the first part's."""
        first = parts[0]
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in first.tensors}
        unconditional = None
        if first.unconditional is not None:
            branches = [part.unconditional_branch.tensors for part in parts]
            unconditional = {
                name: torch.cat([branch[name] for branch in branches]) for name in first.unconditional
            }
        return Conditioning(tensors, unconditional, first.shared)
