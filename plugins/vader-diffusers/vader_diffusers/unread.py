"""Networks that are cut before their weights are read: where those lie, and whether all of them are there."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from vader_core.hub import guarded
from vader_core.nn.build import parameters_without_storage
from vader_core.unread import Unread, covered
from vader_diffusers.parts import as_stored, bare, default_dtype
from vader_diffusers.pipeline_source import PipelineSource

#: A component's weights, in one file.
_WEIGHTS = "diffusion_pytorch_model.safetensors"


def left_unread(
    source: PipelineSource, names: tuple[str, ...], *, dtype: torch.dtype, needed_for: str
) -> tuple[Unread | None, dict[str, nn.Module]]:
    """Networks with their weights left in their files.

    Args:
        source: Of stored weights.
        names: The networks' components.
        dtype: Of the run; parts that diffusers keeps in float32 are of that.
        needed_for: Begins a message.

    Returns:
        What reads them later, and the networks by name; ``None`` and none where the files are not safetensors
        with every weight under its own name. Whoever reads them whole then says what is wrong with them.
    """
    found, unread = {}, Unread()
    for name in names:
        files = weight_files(source, name)
        with parameters_without_storage(), default_dtype(dtype):
            network = bare(source, name, needed_for=needed_for)
        if not covered(network, files):
            return None, {}
        if dtype == torch.float64:
            nn.Module.to(network, dtype)  # its buffers too, as where it is read whole
        found[name] = as_stored(network, dtype)
        unread.add(network, files)
    return unread, found


def weight_files(source: PipelineSource, component: str) -> dict[str, Path]:
    """In which safetensors file each weight of a component lies; empty where there are none."""
    folder = _folder(source, component)
    if folder is None:
        return {}
    listing = folder / f"{_WEIGHTS}.index.json"
    if listing.is_file():
        names = json.loads(listing.read_text(encoding="utf-8"))["weight_map"]
        found = {name: folder / file for name, file in names.items()}
        return found if all(path.is_file() for path in set(found.values())) else {}
    if not (folder / _WEIGHTS).is_file():
        return {}
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        return dict.fromkeys(file.keys(), folder / _WEIGHTS)


def _folder(source: PipelineSource, component: str) -> Path | None:
    """Where a component's files lie; those of a repository are downloaded."""
    from huggingface_hub import snapshot_download

    place = Path(str(source.where))
    if place.is_dir():
        return place / component
    wanted = f"{component}/{_WEIGHTS.removesuffix('.safetensors')}*.safetensors*"
    try:
        with guarded():
            found = snapshot_download(str(source.where), revision=source.revision, allow_patterns=wanted)
    except (OSError, ValueError):
        return None
    return Path(found) / component
