"""LoRA files for VideoCrafter2: VADER's own, in and out, and T2V-Turbo's, in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.lora.listed import first_shape, read_listed
from vader_core.weights import load_tensors, tensor_names, write_tensors

PREFIX = "base_model.model.model.diffusion_model."
"""The official file wraps the whole model in peft; the UNet sits at `model.diffusion_model` in it."""

ALPHA = 8.0
"""Never stored: the official script leaves peft's `lora_alpha` at its default whatever the rank, so the
scaling is 8 / r."""

TARGETS = ("to_q", "to_k", "to_v")
_SIDES = (".lora_A.weight", ".lora_B.weight")


def from_official(tensors: Mapping[str, Tensor], *, what: str = "LoRA") -> Adapter:
    """An official LoRA as the core holds it.

    Args:
        tensors: `base_model.model.model.diffusion_model.<module>.lora_{A,B}.weight`.
        what: The file, for messages.

    Raises:
        VaderError: A key of another form, half a pair, or ranks that differ.
    """
    if not tensors:
        raise VaderError(f"{what}: it holds no tensors")
    for key, value in tensors.items():
        if not (key.startswith(PREFIX) and key.endswith(_SIDES) and isinstance(value, Tensor)):
            raise VaderError(
                f"{what}: {key!r} is not a VideoCrafter LoRA tensor; expected "
                f"{PREFIX}<module>.lora_A.weight or .lora_B.weight"
            )
    ours = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    return Adapter(ours, rank=_single_rank(ours, what), alpha=ALPHA)


def to_official(adapter: Adapter) -> dict[str, Tensor]:
    """An adapter in the official form: float32, the prefix in front, its alpha folded into `lora_B`.

    The official loader always scales by 8 / r, so `lora_B` is multiplied by alpha / 8: nothing changes at
    alpha 8, and what the adapter does stays the same at any other.

    Raises:
        VaderError: Modules that the official loader would not wrap, half a pair, or ranks that differ.
    """
    what = "a VideoCrafter LoRA file"
    foreign = sorted(
        name
        for name in adapter.tensors
        if not name.endswith(tuple(t + side for t in TARGETS for side in _SIDES))
    )
    if foreign:
        raise VaderError(
            f"{what} holds LoRA of {', '.join(TARGETS)} only (the official loader wraps nothing else), "
            f"but this adapter has {len(foreign)} other tensors: {', '.join(foreign[:5])}"
        )
    if not adapter.tensors:
        raise VaderError(f"{what} must hold at least one tensor, but this adapter is empty")
    _single_rank(adapter.tensors, what)
    factor = adapter.alpha / ALPHA
    return {
        PREFIX + name: (value.float() * factor if name.endswith(_SIDES[1]) else value.float()).contiguous()
        for name, value in adapter.tensors.items()
    }


def _single_rank(tensors: Mapping[str, Tensor], what: str) -> int:
    ranks: set[int] = set()
    for name, value in tensors.items():
        side = _SIDES[0] if name.endswith(_SIDES[0]) else _SIDES[1]
        other = name.removesuffix(side) + (_SIDES[1] if side == _SIDES[0] else _SIDES[0])
        if other not in tensors:
            raise VaderError(f"{what}: {name} has no counterpart {other}")
        ranks.add(value.shape[0] if side == _SIDES[0] else value.shape[1])
    if len(ranks) != 1:
        raise VaderError(f"{what} has one rank for all modules, but found ranks {sorted(ranks)}")
    return ranks.pop()


class VideoCrafterLora(LoraFormat):
    """The files that VADER's VideoCrafter script writes and reads (`vader_videocrafter_pickscore.pt`)."""

    name = "videocrafter"

    def recognises(self, path: Path) -> bool:
        """Whether every key of `path` is a LoRA tensor of an official VideoCrafter UNet; reads names only."""
        names = tensor_names(path)
        return bool(names) and all(key.startswith(PREFIX) and key.endswith(_SIDES) for key in names)

    def read(self, path: Path) -> Adapter:
        """The adapter in `path`, with alpha 8.

        Raises:
            VaderError: Unreadable, or a key that is no VideoCrafter LoRA tensor.
        """
        return from_official(load_tensors(path, needed_for="LoRA"), what=f"LoRA {path}")

    def write(self, adapter: Adapter, path: Path) -> None:
        """Writes `path` as the official script would; see `to_official`.

        Raises:
            VaderError: The adapter has other modules or more than one rank.
        """
        write_tensors(to_official(adapter), path)


class T2VTurboLora(LoraFormat):
    """`unet_lora.pt` of T2V-Turbo: a bare list over every layer, in the order of the official UNet.

    One pair more than the UNet has layers belongs to the projection of a guidance embedding, which T2V-Turbo
    adds and whose base weight, drawn at random, is in no file. So the embedding is left out, with its pair.

    Args:
        shapes: The weight's shape of every layer, in the official order; left out, those of the published
            model.
    """

    name = "t2v_turbo"

    def __init__(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self._shapes = shapes

    def recognises(self, path: Path) -> bool:
        """Whether it is a bare list whose first pair is a linear layer's; the pickle is never run."""
        return len(first_shape(path) or ()) == 2

    def read(self, path: Path) -> Adapter:
        """Read it; every layer's scale is 1.

        Raises:
            VaderError: No list of tensors, another number of them than twice the layers, or a shape that
                does not fit.
        """
        shapes = _full_shapes() if self._shapes is None else self._shapes
        projection = {GUIDANCE_PROJECTION: ("fps_embedding.2", (shapes["time_embed.0"][1], GUIDANCE_WIDTH))}
        return read_listed(path, shapes, what=f"LoRA format {self.name!r}", left_out=projection)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Refuses.

        Raises:
            VaderError: Always: T2V-Turbo reads a pair that no adapter here has.
        """
        raise VaderError(
            f"LoRA format {self.name!r} can be read, not written: T2V-Turbo wants a pair for its guidance "
            "embedding, which no adapter here has; convert to peft or videocrafter"
        )


#: T2V-Turbo's projection of a guidance embedding, and the embedding's width.
GUIDANCE_PROJECTION, GUIDANCE_WIDTH = "time_cond_proj", 256
#: Where the official UNet registers its parts in another order than ours.
_PARTS = ("time_embed", "fps_embedding", "input_blocks", "init_attn", "middle_block", "output_blocks", "out")
_IN_BLOCK = ("attn1", "ff", "attn2")


def weight_shapes(unet: nn.Module) -> dict[str, tuple[int, ...]]:
    """The weight's shape of every linear layer, 2-D and 3-D convolution, in the official order."""
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d)
    found = {name: layer for name, layer in unet.named_modules() if isinstance(layer, kinds)}
    places = {name: place for place, name in enumerate(found)}
    blocks: dict[str, int] = {}  # a transformer block stands where its first layer does
    for name, place in places.items():
        blocks.setdefault(_block(name), place)

    def official(name: str) -> tuple[int, int, int, int]:
        block = _block(name)
        within = name.removeprefix(block).lstrip(".").partition(".")[0]
        rank = _IN_BLOCK.index(within) if within in _IN_BLOCK else 0
        return _PARTS.index(name.partition(".")[0]), blocks[block], rank, places[name]

    return {name: tuple(found[name].weight.shape) for name in sorted(found, key=official)}


def _block(name: str) -> str:
    """The transformer block that a layer lies in; else the layer itself."""
    before, found, rest = name.partition(".transformer_blocks.")
    return f"{before}{found}{rest.partition('.')[0]}" if found else name


@cache
def _full_shapes() -> dict[str, tuple[int, ...]]:
    from vader_videocrafter.unet import VideoUNet

    with torch.device("meta"):
        return weight_shapes(VideoUNet())
