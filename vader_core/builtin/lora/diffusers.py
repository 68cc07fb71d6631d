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


class DiffusersFile(LoraFormat):
    """What diffusers' ``save_lora_weights`` writes for one denoiser with modules named as in diffusers."""

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
        """Read a file.

        Rank and alpha come from its header, else from its ``.alpha`` tensors, else alpha is the rank.

        Raises:
            VaderError: A name of another form, half a pair, or LoRAs of two components.
        """
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
        return Adapter(tensors, rank, scale * rank)

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
        tensors = {}
        for module in modules:
            tensors[f"{component}.{module}{_DOWN}"] = _filled(adapter.tensors[module + _DOWN], 0, rank)
            tensors[f"{component}.{module}{_UP}"] = _filled(adapter.tensors[module + _UP], 1, rank) * scale
        save_tensors(tensors, path, {"format": "pt"})


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
