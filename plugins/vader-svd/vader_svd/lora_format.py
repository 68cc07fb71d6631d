"""A LoRA of the U-Net as one safetensors file that diffusers reads.

Keys are `<module>.lora_A.weight` and `<module>.lora_B.weight`, with or without `unet.` before them; alpha
is the rank. Diffusers' U-Net class lacks the adapter mixin, so it takes one line there:
`class UNet(UNetSpatioTemporalConditionModel, PeftAdapterMixin)`, then `load_lora_adapter(file, prefix=None)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.lora.reader import read_lora
from vader_core.weights import tensor_names, write_tensors

_KEY = re.compile(r"(unet\.)?(?P<name>(down_blocks|mid_block|up_blocks)\.[\w.]+\.lora_[AB]\.weight)")


class DiffusersLora(LoraFormat):
    """One safetensors file with the U-Net's own module names."""

    name = "svd_diffusers"

    def recognises(self, path: Path) -> bool:
        """Whether every key is a LoRA's, in a block of this U-Net."""
        keys = tensor_names(path)
        return bool(keys) and all(_KEY.fullmatch(key) for key in keys)

    def read(self, path: Path) -> Adapter:
        """Read a file; alpha is what its header says, else the rank.

        Raises:
            VaderError: A key of another kind, half of a pair, or numbers that are not finite.
        """
        return read_lora(path)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write a file, the scaling alpha / rank multiplied into `lora_B`.

        Raises:
            VaderError: The adapter is of another model, or its modules have different ranks.
        """
        foreign = [name for name in adapter.tensors if not _KEY.fullmatch(name)]
        if foreign:
            raise VaderError(f"LoRA format {self.name!r}: {foreign[0]!r} is no LoRA key of this U-Net")
        rank = self._rank(adapter.tensors, "the adapter")
        scale = adapter.alpha / rank
        scaled = {
            name: value.float() * (scale if ".lora_B." in name else 1.0)
            for name, value in adapter.tensors.items()
        }
        write_tensors(scaled, path, {"format": "pt"})

    def _rank(self, tensors: Mapping[str, Tensor], what: str) -> int:
        ranks = {int(value.shape[0]) for name, value in tensors.items() if ".lora_A." in name}
        modules = [
            {name.partition(side)[0] for name in tensors if side in name} for side in (".lora_A.", ".lora_B.")
        ]
        if modules[0] != modules[1]:
            odd = sorted(modules[0] ^ modules[1])[0]
            raise VaderError(f"LoRA format {self.name!r}: {what} has only half of {odd!r}")
        if len(ranks) != 1:
            raise VaderError(
                f"LoRA format {self.name!r}: {what} has modules of rank "
                f"{', '.join(map(str, sorted(ranks)))}; one rank is possible"
            )
        return ranks.pop()
