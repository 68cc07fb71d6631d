"""The one reader of LoRA files: the content decides what a file is, never its name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter
from vader_core.lora.names import Named, is_lora_name, named
from vader_core.lora.settings import Settings, read_config, settings_of_notes
from vader_core.weights import load_tensors, notes_of, tensor_names
from vader_core.wrappings import refuse_not_finite

CONFIG_FILE = "adapter_config.json"
#: What a folder's tensors are called, by peft and by diffusers; the first that is there.
TENSORS_FILES = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def is_lora(path: Path) -> bool:
    """Whether ``path`` is a LoRA in a known form, or a folder with one; reads no more than names."""
    if path.is_dir():
        return (path / CONFIG_FILE).is_file() or any((path / name).is_file() for name in TENSORS_FILES)
    return any(is_lora_name(name) for name in tensor_names(path))


def read_lora(path: Path) -> Adapter:
    """Read a LoRA that peft, diffusers old or new, kohya or ComfyUI wrote, as a folder or a file.

    A module's alpha is that of its own ``.alpha`` tensor, else that of ``adapter_config.json`` beside a peft
    file, else that of the header (diffusers' note or plain entries), else its rank. Names lose what
    ``torch.compile`` and DistributedDataParallel put before them.

    Args:
        path: The file, or the folder that holds it.

    Raises:
        VaderError: It is no plain LoRA, naming what it is or the first name that does not fit; a number in it
            is not finite; half a pair, or shapes that do not go together.
    """
    file = lora_file(path)
    what = f"LoRA {path}"
    loaded = load_tensors(file, needed_for="LoRA")
    tensors = {str(name): value for name, value in loaded.items()}
    stranger = next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None)
    if stranger is not None or not tensors:
        raise VaderError(f"{what} holds no flat dictionary of tensors, first {stranger!r}")
    refuse_not_finite(tensors, what=what)
    places = {name: named(name, what=what) for name in tensors}
    components = {place.component for place in places.values() if place.component}
    if len(components) > 1:
        raise VaderError(
            f"{what} holds a LoRA of {', '.join(sorted(components))}; one of transformer or unet alone can "
            "be read"
        )
    config = file.parent / CONFIG_FILE
    beside = file.name in TENSORS_FILES[:2] and (config.is_file() or path.is_dir())
    settings = read_config(config) if beside else settings_of_notes(notes_of(file), what=what)
    return _adapter(tensors, places, settings, what)


def lora_file(path: Path) -> Path:
    """The file of tensors that a LoRA's path means.

    Raises:
        VaderError: A folder without one.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in TENSORS_FILES if (path / name).is_file()), None)
    if found is None:
        raise VaderError(f"LoRA {path}: neither of {', '.join(TENSORS_FILES)} is in this folder")
    return found


def _adapter(
    tensors: Mapping[str, Tensor], places: Mapping[str, Named], settings: Settings, what: str
) -> Adapter:
    halves: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for name, place in places.items():
        half = halves.setdefault(place.module, {})
        if place.part in half:
            raise VaderError(f"{what}: {name} and {half[place.part][0]} are the same part of one module")
        half[place.part] = (name, tensors[name])
    ranks, scales = {}, {}
    flat = any(place.flat for place in places.values())
    form = f"{what} (its names are kohya's)" if flat else what
    for module, half in halves.items():
        _check_pair(half, form)
        ranks[module] = len(half["A"][1])
        alpha = _number(half["alpha"], what) if "alpha" in half else None
        scales[module] = settings.scale(module, ranks[module], alpha)
    rank = settings.rank or Counter(ranks.values()).most_common(1)[0][0]
    scale = Counter(scales.values()).most_common(1)[0][0] or 1.0
    found: dict[str, Tensor] = {}
    for module, half in halves.items():
        found[module + _DOWN], up = half["A"][1], half["B"][1]
        same = math.isclose(scales[module], scale, rel_tol=1e-9)
        found[module + _UP] = up if same else up.float() * (scales[module] / scale)
    return Adapter(found, rank, scale * rank, flat=flat)


def _number(held: tuple[str, Tensor], what: str) -> float:
    name, value = held
    if value.numel() != 1:
        raise VaderError(f"{what}: {name} must be one number, but has the shape {tuple(value.shape)}")
    return float(value)


def _check_pair(half: Mapping[str, tuple[str, Tensor]], what: str) -> None:
    first = next(iter(half.values()))[0]
    for part, words in (("A", "down"), ("B", "up")):
        if part not in half:
            raise VaderError(f"{what}: {first} has no counterpart (its {words} half)")
    (down_name, down), (up_name, up) = half["A"], half["B"]
    if down.ndim < 2 or up.ndim < 2 or not len(down) or down.shape[0] != up.shape[1]:
        raise VaderError(
            f"{what}: {down_name} {tuple(down.shape)} and {up_name} {tuple(up.shape)} are no pair: down is "
            "[r, in, …] and up [out, r, …]"
        )
    for name, value in (half["A"], half["B"]):
        if not value.is_floating_point():
            raise VaderError(f"{what}: {name} holds {value.dtype}, not floating-point numbers")
