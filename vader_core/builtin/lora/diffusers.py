"""Diffusers' file: one safetensors with ``<component>.<module>.lora_A.weight``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.lora.names import COMPONENTS, is_lora_name
from vader_core.lora.reader import read_lora
from vader_core.weights import notes_of, tensor_names, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_UNET_PARTS = ("down_blocks.", "up_blocks.", "mid_block.")
#: Denoisers of two networks by name, and what stands behind their files' names. Diffusers reads the second
#: file with ``load_into_transformer_2=True``; the tensors' names are the same in both.
PARTS = {"transformer": "", "transformer_2": "_2"}
#: Where our own header notes which network a file is for, and all files of the same adapter.
_PART, _FILES = "vader_part", "vader_files"


class DiffusersFile(LoraFormat):
    """What diffusers' ``save_lora_weights`` writes for a denoiser with modules named as in diffusers.

    A denoiser of two networks gets a file each.
    """

    name = "diffusers"

    def recognises(self, path: Path) -> bool:
        """Whether every tensor's name has a component in front and a LoRA's ending; reads the names alone."""
        names = tensor_names(path)
        return bool(names) and all(
            name.startswith(tuple(f"{component}." for component in COMPONENTS)) and is_lora_name(name)
            for name in names
        )

    def read(self, path: Path) -> Adapter:
        """Read a file, as every LoRA file is read; of an adapter that we wrote as several, all of them.

        Raises:
            VaderError: A name of another form, half a pair, LoRAs of two components, or a missing file.
        """
        names = notes_of(path).get(_FILES)
        files = [path.with_name(Path(name).name) for name in names.split()] if names else [path]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise VaderError(
                f"LoRA format 'diffusers': {path} is one of {len(files)} files of an adapter, and "
                f"{missing[0]} is not beside it"
            )
        parts = [self._read(file) for file in files]
        if len(parts) == 1:
            return parts[0]
        tensors = {name: value for part in parts for name, value in part.tensors.items()}
        return Adapter(tensors, parts[0].rank, parts[0].alpha)

    def _read(self, path: Path) -> Adapter:
        found, part = read_lora(path), notes_of(path).get(_PART)
        if part is None:
            return found
        tensors = {f"{part}.{name}": value for name, value in found.tensors.items()}
        return Adapter(tensors, found.rank, found.alpha)

    def paths(self, adapter: Adapter, path: Path) -> tuple[Path, ...]:
        """``path`` itself, or a file per network of a denoiser of two."""
        return tuple(place for place, _ in _parts(adapter, path).values())

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
        parts = _parts(adapter, path)
        for part, (place, inside) in parts.items():
            tensors = {}
            for module in inside:
                name = f"{component}.{module.removeprefix(f'{part}.')}" if part else f"{component}.{module}"
                tensors[name + _DOWN] = _filled(adapter.tensors[module + _DOWN], 0, rank)
                tensors[name + _UP] = _filled(adapter.tensors[module + _UP], 1, rank) * scale
            files = " ".join(place.name for place, _ in parts.values())
            write_tensors(tensors, place, {"format": "pt"} | ({_PART: part, _FILES: files} if part else {}))


def _parts(adapter: Adapter, path: Path) -> dict[str, tuple[Path, list[str]]]:
    """The files of an adapter, each with its modules, by the network's name; ``""`` is the only network."""
    modules = [name.removesuffix(_DOWN) for name in adapter.tensors if name.endswith(_DOWN)]
    owners = {module: module.partition(".")[0] for module in modules}
    if not modules or not set(owners.values()) <= PARTS.keys():
        return {"": (path, modules)}
    return {
        part: (path.with_stem(path.stem + suffix), [module for module in modules if owners[module] == part])
        for part, suffix in PARTS.items()
        if part in owners.values()
    }


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
