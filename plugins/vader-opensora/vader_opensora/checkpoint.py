"""Official weight files, and random weights in their place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from vader_core.errors import VaderError
from vader_core.nn.build import fill_randomly
from vader_core.weights import WeightSource, load_exactly, load_tensors, locate
from vader_core.wrappings import unwrapped
from vader_opensora.embeddings import RotaryFrequencies

if TYPE_CHECKING:
    from vader_core.weights import WeightFile

#: Mean and standard deviation of random modulation tables and of the random null text.
_SPREAD = {"scale_shift_table": (0.0, 0.4), "y_embedding": (0.0, 0.5)}


def weight_file(source: WeightSource, pretrained: WeightFile, *, part: str, option: str) -> Path:
    """The file that a source means; in a folder, the official file name. A folder of shards is itself one.

    Raises:
        VaderError: It is not there.
    """
    path = locate(source, pretrained, needed_for=f"backbone 'opensora' ({part})", option=option)
    if path.is_dir() and not any(path.glob("*.index.json")):
        path = path / pretrained.file
    if not path.exists():
        raise VaderError(
            f"backbone 'opensora' ({part}): {path} is not a file; "
            f"give a file, or a folder with {pretrained.file}"
        )
    return path


def read_into(module: nn.Module, path: Path, *, part: str) -> None:
    """Fill ``module`` from an official file; every key must be there and none left over.

    Raises:
        VaderError: Listing what does not fit.
    """
    what = f"backbone 'opensora' ({part}): {path}"
    tensors = unwrapped(load_tensors(path, needed_for=f"backbone 'opensora' ({part})"), what=what)
    load_exactly(module, tensors, what=what)


def draw_into(module: nn.Module, *, part: str) -> None:
    """Fill ``module`` at random; rotary frequencies and the latents' normalisation keep their values."""
    fill_randomly(module, 0, f"opensora {part}", spread=_SPREAD)
    for inner in module.modules():
        if isinstance(inner, RotaryFrequencies):
            inner.reset()
