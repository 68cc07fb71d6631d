"""The shipped weights: safetensors files in half precision beside this module."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped weights: `model`, `rewards` and `judges`, each `.safetensors`."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weights file as float32 tensors.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    return {key: value.float() for key, value in load_file(path).items()}


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


def part_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors named `<name>.<key>`, by key."""
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }


def fill(modules: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """Load tensors named `<module>.<key>` into modules, each exactly, and freeze them.

    Raises:
        RuntimeError: If a key is missing, unexpected or of another shape (torch's own message).
    """
    for name, module in modules.items():
        module.load_state_dict(part_of(tensors, name))
        module.eval().requires_grad_(False)


def load_parts(modules: dict[str, nn.Module], weights: str, file: str, *, needed_for: str) -> None:
    """Fill modules from the shipped weights or from a file of the user's, and freeze them.

    Args:
        modules: By the name that they have in the file.
        weights: `pretrained`, a path, or `hub:REPO[/FILE][@REV]`.
        file: Stem of the file that `pretrained` stands for.
        needed_for: What asks; begins every message.

    Raises:
        VaderError: No such file, unreadable, or of other keys or shapes.
    """
    # The measuring scripts share this module and run where the core is not installed.
    from vader_core.errors import VaderError
    from vader_core.weights import WeightFile, load_exactly, load_tensors, locate, parse_weights
    from vader_core.wrappings import unwrapped

    source = parse_weights(weights)
    if source.kind == "random":
        raise VaderError(f"{needed_for}: weights 'random' make no sense here: use pretrained or a file")
    name = f"{file}.safetensors"
    if source.kind == "pretrained":
        path = WEIGHTS / name
    else:
        path = locate(source, WeightFile("", name), needed_for=needed_for)
    path = path / name if path.is_dir() else path
    tensors = unwrapped(load_tensors(path, needed_for=needed_for), what=f"{needed_for}: {path}")
    for part, module in modules.items():
        own = {key: value.float() for key, value in part_of(tensors, part).items()}
        load_exactly(module, own, what=f"{needed_for}, {part} of {path.name}")
        module.eval().requires_grad_(False)
