"""The shipped weights: safetensors files in half precision beside this module."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped weights: `model`, `rewards` and `judges`, each `.safetensors`."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weights file as float32 tensors.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    with safe_open(str(path), framework="pt") as file:
        return {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (not a dict)


def write_weights(path: Path, modules: dict[str, nn.Module], about: dict[str, object]) -> None:
    """Write modules under their names as one float16 file, with a note on how they were made.

    The file is written beside its place and renamed into it.
    """
    tensors = {
        f"{name}.{key}": value.detach().to("cpu", torch.float16).contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    save_file(tensors, beside, metadata={"about": json.dumps(about)})
    beside.replace(path)


def fill(modules: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """Load tensors named `<module>.<key>` into modules, all of them and nothing else.

    Raises:
        RuntimeError: if a key is missing, unexpected or of another shape (torch's own message).
    """
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        module.load_state_dict(own)
        module.eval().requires_grad_(False)
