"""Foreign LoRA files, in and out.

Inside, an adapter is a flat dict in peft's own names without the adapter name (``<module>.lora_A.weight``,
``<module>.lora_B.weight``), ``<module>`` relative to the backbone's ``denoiser``, with its rank and alpha.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Adapter:
    """A LoRA as the core holds it.

    Args:
        tensors: ``<module>.lora_A.weight`` [r, in, …] and ``<module>.lora_B.weight`` [out, r, …].
        rank: r. Modules whose own rank differs carry it in their shapes.
        alpha: The scaling is alpha / rank.
        flat: Module names have ``_`` for every dot, as kohya writes them; the denoiser says which are meant.
    """

    tensors: Mapping[str, Tensor]
    rank: int
    alpha: float
    flat: bool = False


class LoraFormat(ABC):
    """A way other programs write a LoRA."""

    #: The registered name, e.g. ``videocrafter``.
    name: str

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether ``path`` looks like this format; cheap, reads no more than names."""

    @abstractmethod
    def read(self, path: Path) -> Adapter:
        """Read a file.

        Raises:
            VaderError: It is not of this format, naming the first key that does not fit.
        """

    def paths(self, adapter: Adapter, path: Path) -> tuple[Path, ...]:
        """The files that :meth:`write` makes of ``path``: several, or another, for denoisers in parts."""
        return (path,)

    @abstractmethod
    def write(self, adapter: Adapter, path: Path) -> None:
        """Write the files of :meth:`paths`, each beside its place and renamed into it.

        Raises:
            VaderError: The format cannot hold this adapter (a fixed alpha, say), naming why.
        """
