"""VADER's own LoRA files for Open-Sora 1.2, in and out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.weights import load_tensors, tensor_names, write_tensors

#: peft's prefix; the denoiser itself is what the official script wraps.
PREFIX = "base_model.model."
#: Never stored: the official script leaves peft's ``lora_alpha`` at its default whatever the rank.
ALPHA = 8.0
#: The modules that the official loader wraps.
TARGETS = ("attn.qkv", "cross_attn.q_linear", "cross_attn.kv_linear")

_NAME = re.compile(
    r"(?:spatial|temporal)_blocks\.\d+\."
    rf"(?:{'|'.join(re.escape(target) for target in TARGETS)})\.lora_[AB]\.weight"
)


def _check(tensors: Mapping[str, object], what: str) -> int:
    """The one rank of tensors that are all named as the official ones are."""
    if not tensors:
        raise VaderError(f"{what}: it holds no tensors")
    ranks = set()
    for name, value in tensors.items():
        if not (_NAME.fullmatch(name) and isinstance(value, Tensor) and value.ndim == 2):
            raise VaderError(
                f"{what}: {name!r} is not a tensor of an Open-Sora LoRA; those are "
                f"{{spatial,temporal}}_blocks.N.{{{','.join(TARGETS)}}}.lora_{{A,B}}.weight"
            )
        other = (
            name.replace(".lora_A.", ".lora_B.")
            if ".lora_A." in name
            else name.replace(".lora_B.", ".lora_A.")
        )
        if other not in tensors:
            raise VaderError(f"{what}: {name} has no counterpart {other}")
        ranks.add(value.shape[0 if ".lora_A." in name else 1])
    if len(ranks) != 1:
        raise VaderError(f"{what}: one rank for all modules was expected, but there are {sorted(ranks)}")
    return int(ranks.pop())


class OpenSoraLora(LoraFormat):
    """``peft_model_<step>.pt`` of VADER's Open-Sora script: peft's names, alpha 8 at every rank."""

    name = "opensora"

    def recognises(self, path: Path) -> bool:
        """Whether the file's first name is an Open-Sora block behind peft's prefix."""
        first = next(iter(tensor_names(path)), "")
        return first.startswith(PREFIX) and _NAME.fullmatch(first.removeprefix(PREFIX)) is not None

    def read(self, path: Path) -> Adapter:
        """Read a ``.pt`` or ``.safetensors`` file.

        Raises:
            VaderError: A name of another form, half a pair, or ranks that differ.
        """
        tensors = load_tensors(path, needed_for="LoRA")
        foreign = next((name for name in tensors if not name.startswith(PREFIX)), None)
        if foreign is not None:
            raise VaderError(
                f"LoRA {path}: {foreign!r} does not begin with {PREFIX!r}, "
                "so this is no VADER file for Open-Sora"
            )
        ours = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
        rank = _check(ours, f"LoRA {path}")
        return Adapter(ours, rank=rank, alpha=ALPHA)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write a file that the official script loads: a ``.pt``, or safetensors where the name says so.

        The official loader scales by 8 / r, so another alpha is folded into ``lora_B``: what the adapter does
        stays the same.

        Raises:
            VaderError: Modules that the official loader does not wrap, half a pair, or ranks that differ.
        """
        _check(adapter.tensors, f"LoRA for {path}")
        factor = adapter.alpha / ALPHA
        tensors = {
            PREFIX + name: (value * factor if ".lora_B." in name else value).float().contiguous()
            for name, value in adapter.tensors.items()
        }
        write_tensors(tensors, path)
