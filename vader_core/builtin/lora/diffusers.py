"""Diffusers' file: one safetensors with ``<component>.<module>.lora_A.weight``."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter, LoraFormat

if TYPE_CHECKING:
    from torch import Tensor

#: The pipeline's name of its denoiser.
COMPONENTS = ("transformer", "unet")
#: Where diffusers notes peft's settings in the file's header.
_NOTE = "lora_adapter_metadata"
_DOWN, _UP, _ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
#: Older endings -> today's.
_OLDER = {".lora.down.weight": _DOWN, ".lora.up.weight": _UP}
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
        if not path.is_file() or path.suffix != ".safetensors":
            return False
        names = [_today(name) for name in _header(path)[0]]
        return bool(names) and all(
            name.startswith(tuple(f"{component}." for component in COMPONENTS))
            and name.endswith((_DOWN, _UP, _ALPHA))
            for name in names
        )

    def read(self, path: Path) -> Adapter:
        """Read a file; of an adapter that we wrote as several, all of them.

        Rank and alpha come from its header, else from its ``.alpha`` tensors, else alpha is the rank.

        Raises:
            VaderError: A name of another form, half a pair, LoRAs of two components, or a missing file.
        """
        names = _header(path)[1].get(_FILES, path.name).split()
        files = [path.with_name(name) for name in names]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise VaderError(
                f"LoRA format 'diffusers': {path} is one of {len(files)} files of an adapter, and "
                f"{missing[0]} is not beside it"
            )
        parts = [self._read(file) for file in files]
        tensors = {name: value for part in parts for name, value in part.tensors.items()}
        return Adapter(tensors, parts[0].rank, parts[0].alpha)

    def _read(self, path: Path) -> Adapter:
        from vader_core.weights import load_tensors

        what = f"LoRA format 'diffusers': {path}"
        loaded = {_today(name): value for name, value in load_tensors(path, needed_for=what).items()}
        component = _component(loaded, what)
        tensors = {name.removeprefix(f"{component}."): value for name, value in loaded.items()}
        alphas = {
            name.removesuffix(_ALPHA): float(tensors.pop(name))
            for name in list(tensors)
            if name.endswith(_ALPHA)
        }
        _check_pairs(tensors, what)
        ranks = {name.removesuffix(_DOWN): len(tensors[name]) for name in tensors if name.endswith(_DOWN)}
        note = _settings(_header(path)[1], component)
        rank = int(note.get("r", Counter(ranks.values()).most_common(1)[0][0]))
        scales = _scales(ranks, alphas, note)
        scale = Counter(scales.values()).most_common(1)[0][0]
        for module, own in scales.items():
            if not math.isclose(own, scale):
                tensors[module + _UP] = tensors[module + _UP] * (own / scale)
        part = _header(path)[1].get(_PART)
        if part is not None:
            tensors = {f"{part}.{name}": value for name, value in tensors.items()}
        return Adapter(tensors, rank, scale * rank)

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
        from vader_core.weights import save_tensors

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
            save_tensors(tensors, place, {"format": "pt"} | ({_PART: part, _FILES: files} if part else {}))


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


def _today(name: str) -> str:
    for older, today in _OLDER.items():
        if name.endswith(older):
            return name.removesuffix(older) + today
    return name


def _header(path: Path) -> tuple[list[str], dict[str, str]]:
    """The tensors' names and the notes, without reading a tensor; empty where it is no safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            return list(opened.keys()), dict(opened.metadata() or {})
    except (SafetensorError, OSError):
        return [], {}


def _component(tensors: Mapping[str, Tensor], what: str) -> str:
    found = {name.partition(".")[0] for name in tensors}
    if len(found) != 1 or not found <= set(COMPONENTS):
        raise VaderError(
            f"{what} holds a LoRA of {', '.join(sorted(found)) or 'nothing'}; one of "
            f"{' or '.join(COMPONENTS)} alone can be read"
        )
    return found.pop()


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


def _settings(notes: Mapping[str, str], component: str) -> dict[str, Any]:
    """Peft's settings of the component from the header, without the component's name."""
    try:
        found = json.loads(notes.get(_NOTE, "{}"))
    except ValueError:
        found = {}
    start = f"{component}."
    return {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}


def _scales(
    ranks: Mapping[str, int], alphas: Mapping[str, float], note: Mapping[str, Any]
) -> dict[str, float]:
    """Each module's alpha / rank."""
    if "lora_alpha" in note:
        patterns: dict[str, float] = note.get("alpha_pattern") or {}
        return {
            module: _matching(patterns, module, note["lora_alpha"]) / rank for module, rank in ranks.items()
        }
    return {module: alphas.get(module, float(rank)) / rank for module, rank in ranks.items()}


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    from peft.utils.other import get_pattern_key

    return float(patterns.get(get_pattern_key(list(patterns), module), default))
