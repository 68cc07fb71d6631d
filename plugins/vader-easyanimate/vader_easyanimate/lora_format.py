"""EasyAnimate's LoRA files (kohya's form), in and out."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.weights import load_tensors, save_tensors, tensor_names
from vader_easyanimate.lora_names import DENOISER_PREFIX, TEXT_PREFIX, dotted, flattened

_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
#: Where the older of the two checksums begins, and how long its piece is.
_LEGACY_OFFSET, _LEGACY_LENGTH = 0x100000, 0x10000


@dataclass(frozen=True)
class Pair:
    """One module's LoRA.

    Args:
        down: [r, in].
        up: [out, r].
        alpha: The update is alpha / r · up · down.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """The inner size of both matrices."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """What ``up · down`` is multiplied by."""
        return self.alpha / self.rank


def read_pairs(path: Path, *, text: bool) -> dict[str, Pair]:
    """The pairs of the denoiser, or of the text encoder, by module.

    Raises:
        VaderError: A name of another form, half a pair, or shapes that do not go together.
    """
    tensors = load_tensors(path, needed_for="LoRA")
    other = next((key for key in tensors if not key.startswith((DENOISER_PREFIX, TEXT_PREFIX))), None)
    if other is not None:
        raise VaderError(
            f"LoRA {path}: {other!r} begins with neither {DENOISER_PREFIX!r} nor {TEXT_PREFIX!r}, "
            "so this is no EasyAnimate V2 file"
        )
    prefix = TEXT_PREFIX if text else DENOISER_PREFIX
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if not key.startswith(prefix):
            continue
        flat, part = _split(key.removeprefix(prefix))
        module = dotted(flat, text=text)
        if module is None or part is None:
            raise VaderError(f"LoRA {path}: {key!r} names no module of EasyAnimate V2")
        found.setdefault(module, {})[part] = value
    return {module: _pair(path, module, parts) for module, parts in found.items()}


def _split(key: str) -> tuple[str, str | None]:
    for end in (_DOWN, _UP, _ALPHA):
        if key.endswith(end):
            return key.removesuffix(end), end
    return key, None


def _pair(path: Path, module: str, parts: Mapping[str, Tensor]) -> Pair:
    for end in (_DOWN, _UP):
        if end not in parts:
            raise VaderError(f"LoRA {path}: {module} has no {end.removeprefix('.')}")
    down, up = parts[_DOWN], parts[_UP]
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        raise VaderError(
            f"LoRA {path}: {module} has lora_down {tuple(down.shape)} with lora_up {tuple(up.shape)}; "
            "[r, in] and [out, r] were expected"
        )
    alpha = float(parts[_ALPHA]) if _ALPHA in parts else float(len(down))
    return Pair(down, up, alpha)


class EasyAnimateLora(LoraFormat):
    """``lora_unet__….safetensors`` of EasyAnimate's trainer: names without dots, one alpha per module."""

    name = "easyanimate"

    def recognises(self, path: Path) -> bool:
        """Whether the first name is a module of EasyAnimate behind kohya's prefix."""
        first = next(iter(tensor_names(path)), "")
        for prefix, text in ((DENOISER_PREFIX, False), (TEXT_PREFIX, True)):
            if first.startswith(prefix):
                return dotted(_split(first.removeprefix(prefix))[0], text=text) is not None
        return False

    def read(self, path: Path) -> Adapter:
        """Read the denoiser's part of a file; for the text encoder's see ``backbone.text_lora``.

        Modules whose scale alpha / r differs from the commonest have the difference in ``lora_B``.

        Raises:
            VaderError: Names or shapes that do not fit, or nothing for the denoiser.
        """
        pairs = read_pairs(path, text=False)
        if not pairs:
            raise VaderError(
                f"LoRA {path}: it holds nothing for the denoiser; "
                f"give its text encoder's part as -o backbone.text_lora={path}"
            )
        if read_pairs(path, text=True):
            warnings.warn(
                f"LoRA {path} also changes the text encoder: add -o backbone.text_lora={path} to apply that",
                stacklevel=2,
            )
        common = [(pair.rank, pair.alpha) for pair in pairs.values()]
        rank, alpha = max(common, key=common.count)
        tensors = {}
        for module, pair in pairs.items():
            factor = pair.scale / (alpha / rank)
            tensors[f"{module}.lora_A.weight"] = pair.down
            tensors[f"{module}.lora_B.weight"] = pair.up if factor == 1.0 else pair.up * factor
        return Adapter(tensors, rank=rank, alpha=alpha)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write a file as the official trainer does, in the adapter's dtype, with both checksums.

        Raises:
            VaderError: A module that the official loader does not wrap, or half a pair.
        """
        if path.suffix != ".safetensors":
            raise VaderError(f"{path}: EasyAnimate's LoRA files end in .safetensors")
        tensors: dict[str, Tensor] = {}
        for name, value in adapter.tensors.items():
            module, _, part = name.rpartition(".lora_")
            other = f"{module}.lora_{'B' if part.startswith('A') else 'A'}.weight"
            if dotted(flattened(module)) != module or value.ndim != 2:
                raise VaderError(
                    f"LoRA for {path}: EasyAnimate's loader knows no LoRA in {module!r}; it wraps the linear "
                    "layers of the transformer"
                )
            if other not in adapter.tensors:
                raise VaderError(f"LoRA for {path}: {name} has no counterpart {other}")
            key = DENOISER_PREFIX + flattened(module)
            if part.startswith("A"):
                tensors[key + _DOWN] = value.contiguous()
                tensors[key + _ALPHA] = _alpha(adapter.alpha * len(value) / adapter.rank, value.dtype)
            else:
                tensors[key + _UP] = value.contiguous()
        save_tensors(tensors, path, checksums(tensors))


def _alpha(value: float, dtype: torch.dtype) -> Tensor:
    """A module's alpha as the trainer stores it.

    In the weights' dtype once they were cast to 16 bits, else a whole number; in float32 where that would
    change it.
    """
    if dtype == torch.float32 and value == int(value):
        return torch.tensor(int(value))
    cast = torch.tensor(value, dtype=dtype)
    return cast if float(cast) == value else torch.tensor(value, dtype=torch.float32)


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata by which kohya's tools index a file: both are of the file without metadata.

    ``sshs_model_hash`` is the SHA-256 of everything behind the header, ``sshs_legacy_hash`` the first eight
    digits of that of 64 KiB from 1 MiB on.
    """
    from safetensors.torch import save

    written = save(dict(tensors))
    header = int.from_bytes(written[:8], "little")
    legacy = written[_LEGACY_OFFSET : _LEGACY_OFFSET + _LEGACY_LENGTH]
    return {
        "sshs_model_hash": hashlib.sha256(written[8 + header :]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }
