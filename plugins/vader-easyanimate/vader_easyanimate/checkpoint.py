"""Official model folders and weight files, and random weights in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.nn.build import fill_randomly
from vader_core.paths import entered
from vader_core.weights import WeightSource, load_exactly, load_tensors, locate
from vader_core.wrappings import unwrapped
from vader_easyanimate.architecture import Architecture, resolve_architecture
from vader_easyanimate.official_config import autoencoder_config, transformer_config
from vader_easyanimate.transformer import EasyAnimateTransformer
from vader_easyanimate.weight_files import CONFIG, MODELS, TENSORS

#: Mean and standard deviation of random modulation tables.
_SPREAD = {"scale_shift_table": (0.0, 0.4)}
#: What V2's yaml adds to the transformer's config.json, where that does not say it.
_V2: Mapping[str, Any] = {
    "motion_module_type": "Vanilla",
    "enable_uvit": True,
    "motion_module_kwargs": {
        "num_attention_heads": 8,
        "num_transformer_block": 1,
        "attention_block_types": ["Temporal_Self", "Temporal_Self"],
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 4096,
        "temporal_attention_dim_div": 1,
        "block_size": 1,
    },
}
_V2_VAE: Mapping[str, Any] = {
    "down_block_types": ["SpatialDownBlock3D"] + ["SpatialTemporalDownBlock3D"] * 3,
    "up_block_types": ["SpatialUpBlock3D"] + ["SpatialTemporalUpBlock3D"] * 3,
}


def architecture_of(given: str | Mapping[str, Any] | None, weights: str) -> Architecture:
    """The sizes that are meant.

    Args:
        given: A name, a mapping, a model folder with ``transformer/config.json``, or ``None``.
        weights: Of the backbone; a model folder settles what ``given`` leaves open, else it is V2's 512.

    Raises:
        VaderError: Sizes that this model cannot have.
    """
    folder = entered(weights if given is None else given) if isinstance(given, str | None) else None
    if folder is not None and (folder / "transformer" / CONFIG).is_file():
        return _folder_architecture(folder)
    return resolve_architecture("512" if given is None else given)


def _folder_architecture(folder: Path) -> Architecture:
    denoiser = transformer_config({**_V2, **_read(folder / "transformer" / CONFIG)})
    vae = folder / "vae" / CONFIG
    if not vae.is_file():
        return Architecture(denoiser)
    return Architecture(denoiser, autoencoder_config({**_V2_VAE, **_read(vae)}))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise VaderError(f"backbone 'easyanimate': {path} is not readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise VaderError(f"backbone 'easyanimate': {path} holds no JSON object")
    return found


def place(source: WeightSource, size: str, *, part: str, option: str) -> Path:
    """The local file or folder that a source means.

    Args:
        source: Where the weights come from.
        size: ``512`` or ``768``: whose pretrained folder.
        part: For messages.
        option: The option that names a local file instead; for messages.

    Raises:
        VaderError: It is not there.
    """
    return locate(source, MODELS[size], needed_for=f"backbone 'easyanimate' ({part})", option=option)


def part_file(root: Path, part: str) -> Path:
    """The weight file of a part within a model folder, within its own folder, or the file itself.

    Raises:
        VaderError: It is not there.
    """
    if root.is_file():
        return root
    for folder in (root / part, root):
        for name in TENSORS:
            if (folder / name).is_file():
                return folder / name
    raise VaderError(
        f"backbone 'easyanimate' ({part}): {root} holds neither {part}/{TENSORS[0]} nor {TENSORS[0]}; give a "
        "model folder, the part's own folder, or its file"
    )


def read_into(module: nn.Module, path: Path, *, part: str) -> None:
    """Fill ``module`` from an official file; every key must be there and none left over.

    Raises:
        VaderError: Listing what does not fit.
    """
    what = f"backbone 'easyanimate' ({part}): {path}"
    tensors = unwrapped(load_tensors(path, needed_for=f"backbone 'easyanimate' ({part})"), what=what)
    if isinstance(module, EasyAnimateTransformer) and _tables_alike(tensors):
        module.share_position_tables()
    load_exactly(module, tensors, what=what)


def _tables_alike(tensors: Mapping[str, Tensor]) -> bool:
    tables = [value for name, value in tensors.items() if name.endswith(".pos_encoder.pe")]
    return all(torch.equal(table, tables[0]) for table in tables)


def draw_into(module: nn.Module, *, part: str) -> None:
    """Fill ``module`` at random; the position tables keep their values."""
    fill_randomly(module, 0, f"easyanimate {part}", spread=_SPREAD)
    if isinstance(module, EasyAnimateTransformer):
        module.share_position_tables()
