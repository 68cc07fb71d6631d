"""Whether two adapters do the same."""

from __future__ import annotations

import torch
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter

#: Largest difference of an update, as a share of its largest number: above half precision's rounding.
_TOLERANCE = 2e-2


def check_equal(before: Adapter, after: Adapter, *, what: str) -> None:
    """Refuse a written file that reads back as another update.

    Each module's scale · up · down is applied to one fixed vector: ranks and scales may be held otherwise.

    Args:
        before: What was written.
        after: What was read back.
        what: The file, for messages.

    Raises:
        VaderError: Naming the first module that differs.
    """
    own, other = _modules(before), _modules(after)
    if own != other:
        raise VaderError(f"{what}: read back it has other modules, first {sorted(own ^ other)[0]!r}")
    for module in sorted(own):
        wanted, found = _update(before, module), _update(after, module)
        if wanted.shape != found.shape or bool(
            (wanted - found).abs().max() > _TOLERANCE * wanted.abs().max().clamp_min(1e-30)
        ):
            raise VaderError(f"{what}: read back, the update of {module} is another one than was written")


def _modules(adapter: Adapter) -> set[str]:
    return {name.rpartition(".lora_")[0] for name in adapter.tensors}


def _update(adapter: Adapter, module: str) -> Tensor:
    down = adapter.tensors[f"{module}.lora_A.weight"].double().flatten(1)
    up = adapter.tensors[f"{module}.lora_B.weight"].double().flatten(1)
    probe = torch.cos(torch.arange(down.shape[1], dtype=torch.float64, device=down.device))
    return up @ (down @ probe) * (adapter.alpha / adapter.rank)
