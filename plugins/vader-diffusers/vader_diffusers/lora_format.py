"""LoRA files under the models' own names, as ComfyUI and musubi-tuner (kohya) write and read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.lora.names import is_lora_name, named
from vader_core.lora.reader import read_lora
from vader_core.weights import notes_of, tensor_names, write_tensors
from vader_diffusers.lora_names import HUNYUAN_VIDEO, LTX, WAN, Names, Pair, divided, joined

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
#: Denoisers of two networks: what stands behind their files' names, as the models' publishers call them.
PARTS = {"transformer": "_high_noise", "transformer_2": "_low_noise"}
#: Where our own header notes which network a file is for, and all files of the same adapter.
_PART, _FILES = "vader_part", "vader_files"


class OwnNames(LoraFormat):
    """A LoRA under the names of the model's own code. A denoiser of two networks gets a file each."""

    names: Names
    #: Kohya's form: names without dots behind ``lora_unet_``, ``lora_down`` and ``lora_up``, an alpha each.
    kohya = False
    #: Names that are the same in both are kept: the family renames little.
    keeps_names = False

    def recognises(self, path: Path) -> bool:
        """Whether every tensor bears a name of the family in this form; reads the names alone."""
        found = tensor_names(path)
        if not found or not all(is_lora_name(name) for name in found):
            return False
        try:
            places = {named(name, what="") for name in found}
        except VaderError:
            return False
        return all(
            place.flat == self.kohya
            and not place.component
            and self.names.ours(place.module, flat=place.flat) is not None
            for place in places
        )

    def read(self, path: Path) -> Adapter:
        """Read a file, as every LoRA file is read, under diffusers' names; of several that we wrote, all.

        Raises:
            VaderError: A name that the family does not have, or a file of several that is not there.
        """
        listed = notes_of(path).get(_FILES)
        files = [path.with_name(Path(name).name) for name in listed.split()] if listed else [path]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise self._error(f"{path} is one of {len(files)} files, and {missing[0]} is not beside it")
        found = [self._read(file) for file in files]
        first = found[0]
        tensors: dict[str, Tensor] = {}
        for one in found:
            change = (one.alpha / one.rank) / (first.alpha / first.rank)
            tensors |= {
                name: value * change if name.endswith(_UP) and change != 1.0 else value
                for name, value in one.tensors.items()
            }
        return Adapter(tensors, first.rank, first.alpha)

    def _read(self, path: Path) -> Adapter:
        adapter, part = read_lora(path), notes_of(path).get(_PART)
        before = f"{part}." if part else ""
        tensors: dict[str, Tensor] = {}
        for module, (down, up) in _pairs(adapter).items():
            ours = self._ours(module, flat=adapter.flat, path=path)
            pairs: list[Pair | None] = [(down, up)] if len(ours) == 1 else divided(down, up, len(ours))
            for name, pair in zip(ours, pairs, strict=True):
                if pair is not None:
                    tensors[before + name + _DOWN], tensors[before + name + _UP] = pair
        return Adapter(tensors, adapter.rank, adapter.alpha)

    def _ours(self, module: str, *, flat: bool, path: Path) -> tuple[str, ...]:
        ours = self.names.ours(module, flat=flat)
        if ours is None and self.keeps_names:
            return (module,)
        if ours is None:
            raise self._error(f"{path}: the model has no layer {module!r}")
        return ours

    def paths(self, adapter: Adapter, path: Path) -> tuple[Path, ...]:
        """``path`` itself, or a file per network of a denoiser of two."""
        return tuple(place for place, _ in _files(adapter, path).values())

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write the files; ComfyUI's have the scale within lora_B, kohya's an alpha per module.

        Raises:
            VaderError: A module for which the model's own code has no name.
        """
        files = _files(adapter, path)
        listed = " ".join(place.name for place, _ in files.values())
        for part, (place, pairs) in files.items():
            notes = {"format": "pt"} | ({_PART: part, _FILES: listed} if part else {})
            write_tensors(self._named(self._whole(pairs), adapter.alpha / adapter.rank), place, notes)

    def _whole(self, pairs: Mapping[str, Pair]) -> dict[str, Pair]:
        """Under their names, parts of one layer as one."""
        held: dict[str, list[Pair | None]] = {}
        for module, pair in pairs.items():
            place = self.names.theirs(module)
            if place is None and self.keeps_names:
                place = module, 0, 1
            if place is None:
                raise self._error(f"the model's own code has no layer for {module!r}: convert to diffusers")
            held.setdefault(place[0], [None] * place[2])[place[1]] = pair
        whole = {}
        for name, parts in held.items():
            whole[name] = parts[0] if len(parts) == 1 and parts[0] is not None else joined(parts)
        return whole

    def _named(self, pairs: Mapping[str, Pair], scale: float) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for module, (down, up) in pairs.items():
            if self.kohya:
                name = f"lora_unet_{module.replace('.', '_')}"
                tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
                tensors[f"{name}.alpha"] = torch.tensor(scale * len(down))
            else:
                name = f"diffusion_model.{module}"
                tensors |= {name + _DOWN: down, name + _UP: up * scale}
        return {name: value.contiguous() for name, value in tensors.items()}

    def _error(self, message: str) -> VaderError:
        return VaderError(f"LoRA format {self.name!r}: {message}")


class WanComfyUI(OwnNames):
    """``diffusion_model.blocks.N.self_attn.q.lora_A.weight``."""

    name = "wan_comfyui"
    names = WAN


class WanKohya(OwnNames):
    """``lora_unet_blocks_N_self_attn_q.lora_down.weight`` and ``.alpha``."""

    name = "wan_kohya"
    names = WAN
    kohya = True


class HunyuanVideoComfyUI(OwnNames):
    """``diffusion_model.double_blocks.N.img_attn_qkv.lora_A.weight``."""

    name = "hunyuan_video_comfyui"
    names = HUNYUAN_VIDEO


class HunyuanVideoKohya(OwnNames):
    """``lora_unet_double_blocks_N_img_attn_qkv.lora_down.weight`` and ``.alpha``."""

    name = "hunyuan_video_kohya"
    names = HUNYUAN_VIDEO
    kohya = True


class LTXComfyUI(OwnNames):
    """``diffusion_model.transformer_blocks.N.attn1.to_q.lora_A.weight``, of LTX and LTX-2."""

    name = "ltx_comfyui"
    names = LTX
    keeps_names = True

    def recognises(self, path: Path) -> bool:
        """Whether every name is ComfyUI's, of a block named as diffusers does; reads the names alone."""
        found = tensor_names(path)
        known = ("transformer_blocks.", "patchify_proj.", "audio_patchify_proj.", "proj_out.")
        wanted = tuple(f"diffusion_model.{name}" for name in known)
        return bool(found) and all(name.startswith(wanted) and is_lora_name(name) for name in found)


def _pairs(adapter: Adapter) -> dict[str, Pair]:
    modules = [name.removesuffix(_DOWN) for name in adapter.tensors if name.endswith(_DOWN)]
    return {module: (adapter.tensors[module + _DOWN], adapter.tensors[module + _UP]) for module in modules}


def _files(adapter: Adapter, path: Path) -> dict[str, tuple[Path, dict[str, Pair]]]:
    """The files of an adapter with their pairs, by the network's name; ``""`` is the only network."""
    pairs = _pairs(adapter)
    owners = {module.partition(".")[0] for module in pairs}
    if not pairs or not owners <= PARTS.keys():
        return {"": (path, pairs)}
    return {
        part: (
            path.with_stem(path.stem + suffix),
            {
                name.removeprefix(f"{part}."): pair
                for name, pair in pairs.items()
                if name.startswith(f"{part}.")
            },
        )
        for part, suffix in PARTS.items()
        if part in owners
    }
