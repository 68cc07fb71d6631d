"""What real tensors take up, booked as the paper device books its own."""

from __future__ import annotations

import weakref
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from vader_core.api.configure import complete
from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.profiling.bench import Bench, load
from vader_core.profiling.paper_device import GRAIN, Ledger
from vader_core.profiling.stopwatch import Stopwatch
from vader_core.registry import Registry
from vader_core.run.config import RunConfig


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


def held(registry: Registry, config: RunConfig) -> float:
    """GiB of tensors that a real step holds at most."""
    fused = torch.nn.functional.scaled_dot_product_attention

    def plain(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
        if q.ndim == 4:
            return fused(q, k, v, **more)
        # as CUDA takes three axes; the CPU's choice varies
        return torch.ops.aten._scaled_dot_product_attention_math(q, k, v, **more)[0]

    cpu = torch.device("cpu")
    with Booked() as booked, patch("torch.nn.functional.scaled_dot_product_attention", plain):
        bench = Bench(load(prepare(complete(config, registry, device=cpu), registry, device=cpu)))
        for number in range(2):  # the first makes the optimizer's states
            booked.ledger.reset()
            bench.step(number, Stopwatch(cpu))
    return booked.ledger.peak / GIB
