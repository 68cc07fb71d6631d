"""Weight files of Open-Sora 1.1 and of what was trained from it, under our names."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vader_core.errors import VaderError
from vader_core.nn.diffusers_names import modern_attention_names
from vader_core.weights import WeightSource, load_tensors, locate
from vader_core.wrappings import unwrapped
from vader_opensora.weight_files import AUTOENCODER_11, DENOISER_11

#: Files that may hold a denoiser, in the order they are looked for: the hub's, then those of a training run.
_DENOISER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "ema.pt",
    # Of this toolkit's own runs over full weights.
    "denoiser.safetensors",
)
_AUTOENCODER = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def denoiser_tensors(source: WeightSource, label: str) -> dict[str, Tensor]:
    """The denoiser's tensors: a file, the hub's folder, or a checkpoint folder of Open-Sora's trainer.

    A trainer's folder keeps the weights in ``model/``, in one file or in shards, and their average in
    ``ema.pt``; the folder stands for the weights, ``ema.pt`` is named where it is wanted.

    Args:
        source: Anything but random weights.
        label: What asks, for messages.

    Raises:
        VaderError: Nothing that could be one is there.
    """
    path = locate(source, DENOISER_11, needed_for=label)
    found = _found(path, ("", "model"), _DENOISER, label)
    return unwrapped(load_tensors(found, needed_for=label), what=f"{label}: {found}")


def autoencoder_tensors(source: WeightSource, label: str) -> dict[str, Tensor]:
    """The image autoencoder's tensors under the official prefix: a file, or a folder as diffusers writes it.

    Raises:
        VaderError: Nothing that could be one is there.
    """
    path = locate(source, AUTOENCODER_11, needed_for=label, option="-o backbone.vae_weights=PATH")
    found = _found(path, ("", "vae"), _AUTOENCODER, label)
    tensors = unwrapped(load_tensors(found, needed_for=label), what=f"{label}: {found}")
    return {f"module.{name}": value for name, value in modern_attention_names(tensors).items()}


def _found(path: Path, folders: tuple[str, ...], names: tuple[str, ...], label: str) -> Path:
    if path.is_file():
        return path
    for name in names:
        for folder in folders:
            if (path / folder / name).is_file():
                return path / folder / name
    where = " or in ".join(f"{path / folder}" for folder in folders)
    raise VaderError(f"{label}: in {where} there is none of {', '.join(names)}; give the file itself")
