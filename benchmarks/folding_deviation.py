"""How far folding the adapter into bfloat16 weights moves a prediction, as the adapter grows.

python benchmarks/folding_deviation.py benchmarks/results/folding.json
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.performance.fold_adapter import Folding

WIDTH, DEPTH, ROWS = 512, 8, 256
SCALES = (1e-4, 1e-3, 1e-2, 1e-1)


class Stack(nn.Module):
    """Residual linear layers, as an attention's projections see them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] to the same."""
        for layer in self.layers:
            x = x + layer(torch.nn.functional.layer_norm(x, x.shape[-1:]))
        return x


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative norm of the difference."""
    return float((found.double() - wanted).norm() / wanted.norm())


@torch.no_grad()
def row(scale: float) -> dict[str, float]:
    """One size of adapter: B is normal with standard deviation ``scale``."""
    torch.manual_seed(0)
    exact = Stack().bfloat16().double()
    half = copy.deepcopy(exact).bfloat16()
    x = torch.randn(ROWS, WIDTH).bfloat16()
    for model in (exact, half):
        attach_lora(model, LoraSettings(16, 16.0, ("all",)))
    for (name, wide), narrow in zip(
        adapter_parameters(exact).items(), adapter_parameters(half).values(), strict=True
    ):
        if "lora_B" in name:
            wide.copy_(scale * torch.randn(wide.shape))
        narrow.copy_(wide)
    base = copy.deepcopy(exact)
    for name, value in adapter_parameters(base).items():
        if "lora_B" in name:
            value.zero_()
    wanted = exact(x.double())
    plain = half(x)
    folding = Folding(half)
    folding.on()
    return {
        "scale": scale,
        "adapter_moves_the_output_by": distance(base(x.double()), wanted),
        "bf16": distance(plain, wanted),
        "bf16_folded": distance(half(x), wanted),
    }


if __name__ == "__main__":
    rows = [row(scale) for scale in SCALES]
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for one in rows:
        sys.stdout.write(f"{one}\n")
