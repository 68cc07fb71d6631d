"""What real tensors take up, booked as the paper device books its own."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from vader_core.profiling.paper_device import GRAIN, Ledger


class Booked(TorchDispatchMode):
    """Books the storages of real tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.held:
                storage = leaf.untyped_storage()
                self.held.add(storage._cdata)
                size = -(-storage.nbytes() // GRAIN) * GRAIN
                self.ledger.book(size)
                weakref.finalize(storage, self._erase, storage._cdata, size)
        return out

    def _erase(self, key: int, size: int) -> None:
        self.held.discard(key)
        self.ledger.book(-size)
