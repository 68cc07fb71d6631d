"""Weights in diffusers' layout: one folder per network, each with a `config.json` and a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vader_core.errors import VaderError
from vader_core.weights import WeightFile, WeightSource, fetch, in_brackets, load_tensors
from vader_core.wrappings import unwrapped
from vader_svd.architecture import PARTS, Architecture, differences, read_config

if TYPE_CHECKING:
    from torch import Tensor

#: The published repositories, by architecture. Both are gated; no commit is pinned because none could be
#: verified.
PRETRAINED = {
    "full": "stabilityai/stable-video-diffusion-img2vid",
    "xt": "stabilityai/stable-video-diffusion-img2vid-xt",
}
LICENCE = "Stability AI community licence"

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}

#: Position indices, a constant that older transformers stored in the file.
_STORED_CONSTANTS = {"vision_model.embeddings.position_ids"}


#: Parameters of each network.
_NUMBERS = {"unet": 1_524_623_082, "vae": 97_742_847, "image_encoder": 632_076_800}


def tensor_file(part: str, variant: str | None) -> str:
    """Path of a network's tensors within the layout.

    >>> tensor_file("unet", "fp16")
    'unet/diffusion_pytorch_model.fp16.safetensors'
    """
    middle = f".{variant}" if variant else ""
    return f"{part}/{_STEMS[part]}{middle}.safetensors"


def wanted_files(repository: str, revision: str | None, variant: str | None) -> dict[str, WeightFile]:
    """Every file of a repository that is read, by its path in the layout; nothing else is downloaded."""
    found: dict[str, WeightFile] = {}
    sizes = next((name for name, place in PRETRAINED.items() if place == repository), None)
    when = (("architecture", (None, sizes) if sizes == "full" else (sizes,)), ("variant", (variant,)))
    for part in PARTS:
        for name, numbers in ((f"{part}/config.json", None), (tensor_file(part, variant), _NUMBERS[part])):
            gated = repository in PRETRAINED.values()
            found[name] = WeightFile(
                repository, name, revision, numbers=numbers, licence=LICENCE, gated=gated, when=when
            )
    return found


def locate_files(source: WeightSource, architecture: str, variant: str | None) -> dict[str, Path]:
    """The local path of every file of the layout, downloading what is missing.

    Args:
        source: ``pretrained``, ``path`` or ``hub``.
        architecture: The option's own word; ``pretrained`` needs one that was published.
        variant: ``fp16`` or ``None``.

    Raises:
        VaderError: Nothing published, a file instead of a folder, or a file of the layout that is not there.
    """
    if source.kind == "path" and source.path is not None:
        return _in_folder(source.path, variant)
    if source.kind == "pretrained":
        if architecture not in PRETRAINED:
            raise VaderError(
                f"backbone 'svd': no weights were published for architecture {architecture!r}: "
                "use --weights random, a folder or hub:OWNER/NAME"
            )
        files = wanted_files(PRETRAINED[architecture], None, variant)
    else:
        if source.file:
            raise VaderError(
                f"backbone 'svd': hub:{source.repository}/{source.file} names one file, but this backbone "
                f"reads a repository in diffusers' layout: use hub:{source.repository}"
            )
        files = wanted_files(source.repository, source.revision, variant)
    return {name: fetch(wanted, needed_for="backbone 'svd'") for name, wanted in files.items()}


def _in_folder(folder: Path, variant: str | None) -> dict[str, Path]:
    if not folder.is_dir():
        raise VaderError(
            f"backbone 'svd': weights {folder} is not a folder{in_brackets(folder)}: give one in diffusers' "
            f"layout ({', '.join(f'{part}/' for part in PARTS)})"
        )
    names = [name for part in PARTS for name in (f"{part}/config.json", tensor_file(part, variant))]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        hint = (
            "leave out -o backbone.variant"
            if variant
            else "-o backbone.variant=fp16 reads half-precision files"
        )
        raise VaderError(f"backbone 'svd': weights {folder} lacks {', '.join(missing)} ({hint})")
    return {name: folder / name for name in names}


def check_configs(files: dict[str, Path], architecture: Architecture) -> None:
    """Refuse weights whose own `config.json` says another network than ``architecture``.

    Raises:
        VaderError: Naming every parameter that differs.
    """
    for part in PARTS:
        found = differences(getattr(architecture, part), read_config(files[f"{part}/config.json"]))
        if found:
            raise VaderError(
                f"backbone 'svd': the weights' {part} has {', '.join(found)}: give the architecture they "
                "were made for, -o backbone.architecture=xt for img2vid-xt, or a folder in diffusers' layout"
            )


def read_part(files: dict[str, Path], part: str, variant: str | None) -> dict[str, Tensor]:
    """The tensors of one network, under the names of its class."""
    path, needed_for = files[tensor_file(part, variant)], f"backbone 'svd', {part}"
    tensors = unwrapped(load_tensors(path, needed_for=needed_for), what=f"{needed_for}: {path}")
    return {name: value for name, value in tensors.items() if name not in _STORED_CONSTANTS}
