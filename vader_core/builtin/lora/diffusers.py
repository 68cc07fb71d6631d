"""Diffusers' file: one safetensors with ``<component>.<module>.lora_A.weight``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.lora.names import COMPONENTS, is_lora_name
from vader_core.lora.reader import read_lora
from vader_core.weights import tensor_names, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_UNET_PARTS = ("down_blocks.", "up_blocks.", "mid_block.")


class DiffusersFile(LoraFormat):
    """What diffusers' ``save_lora_weights`` writes for one denoiser with modules named as in diffusers."""

    name = "diffusers"

    def recognises(self, path: Path) -> bool:
        """Whether every tensor's name has a component in front and a LoRA's ending; reads the names alone."""
        names = tensor_names(path)
        return bool(names) and all(
            name.startswith(tuple(f"{component}." for component in COMPONENTS)) and is_lora_name(name)
            for name in names
        )

    def read(self, path: Path) -> Adapter:
        """Read a file, as every LoRA file is read.

        Raises:
            VaderError: A name of another form, half a pair, or LoRAs of two components.
        """
        return read_lora(path)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write a file under ``unet.`` where the modules are a U-Net's, else under ``transformer.``.

        Without a note diffusers takes the rank for alpha, one alpha for every module: so the scale goes into
        lora_B, and modules of a smaller rank are filled up with zeros.

        Raises:
            VaderError: Half a pair.
        """
        _check_pairs(adapter.tensors, "LoRA format 'diffusers'")
        modules = [name.removesuffix(_DOWN) for name in adapter.tensors if name.endswith(_DOWN)]
        component = "unet" if any(name.startswith(_UNET_PARTS) for name in modules) else "transformer"
        rank = max(len(adapter.tensors[module + _DOWN]) for module in modules)
        scale = adapter.alpha / adapter.rank
        tensors = {}
        for module in modules:
            tensors[f"{component}.{module}{_DOWN}"] = _filled(adapter.tensors[module + _DOWN], 0, rank)
            tensors[f"{component}.{module}{_UP}"] = _filled(adapter.tensors[module + _UP], 1, rank) * scale
        write_tensors(tensors, path, {"format": "pt"})


def _filled(matrix: Tensor, axis: int, rank: int) -> Tensor:
    """``matrix`` with zeros behind it along ``axis``, up to ``rank``."""
    import torch

    shape = list(matrix.shape)
    shape[axis] = rank - shape[axis]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=axis)


def _check_pairs(tensors: Mapping[str, Tensor], what: str) -> None:
    for name in tensors:
        ending = next((ending for ending in (_DOWN, _UP) if name.endswith(ending)), None)
        if ending is None:
            raise VaderError(f"{what}: {name} is not a LoRA's tensor (…{_DOWN} or …{_UP})")
        other = name.removesuffix(ending) + (_UP if ending == _DOWN else _DOWN)
        if other not in tensors:
            raise VaderError(f"{what}: {name} has no counterpart {other}")
    if not tensors:
        raise VaderError(f"{what}: there is no LoRA in it")
