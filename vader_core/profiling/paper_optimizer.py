"""An optimizer whose step runs on the device alone, on paper: what its states take up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

#: As bitsandbytes has them: tensors of fewer numbers keep their states in float32; the others have a float32
#: scale per block and state.
LEAST, BLOCK = 4096, 256


class PaperAdamW8bit(torch.optim.Optimizer):
    """The two states of bitsandbytes' AdamW8bit, whose kernels cannot run without a device.

    Args:
        groups: Parameters, or groups of them.
    """

    def __init__(self, groups: Iterable[Any]) -> None:
        super().__init__(groups, {})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Make the states where there are none; one kernel per tensor, so nothing lies beside them."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = _states(parameter.detach())


def _states(values: Tensor) -> dict[str, Tensor]:
    if values.numel() < LEAST:
        return {name: torch.zeros_like(values, dtype=torch.float32) for name in ("state1", "state2")}
    found = {name: torch.zeros_like(values, dtype=torch.uint8) for name in ("state1", "state2")}
    blocks = -(-values.numel() // BLOCK)
    scales = {name: values.new_zeros(blocks, dtype=torch.float32) for name in ("absmax1", "absmax2")}
    return found | scales
