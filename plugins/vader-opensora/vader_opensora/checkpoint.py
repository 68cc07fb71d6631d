"""Official weight files, and random weights in their place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from vader_core.errors import VaderError
from vader_core.nn.build import fill_randomly
from vader_core.weights import WeightSource, in_brackets, load_exactly, load_tensors, locate
from vader_core.wrappings import unwrapped
from vader_opensora.embeddings import RotaryFrequencies

if TYPE_CHECKING:
    from vader_core.weights import WeightFile

#: Mean and standard deviation of random modulation tables and of the random null text.
_SPREAD = {
    "scale_shift_table": (0.0, 0.4),
    "scale_shift_table_temporal": (0.0, 0.4),
    "y_embedding": (0.0, 0.5),
}


def weight_file(source: WeightSource, pretrained: WeightFile, *, label: str, option: str) -> Path:
    """The file that a source means; in a folder, the official file name. A folder of shards is itself one.

    Raises:
        VaderError: It is not there.
    """
    place = locate(source, pretrained, needed_for=label, option=option)
    path = place
    if path.is_dir() and not any(path.glob("*.index.json")):
        path = path / pretrained.file
    if not path.exists():
        raise VaderError(
            f"{label}: {path} is not a file{in_brackets(place)}; give a file, or a folder with "
            f"{pretrained.file}"
        )
    return path


def read_into(module: nn.Module, path: Path, label: str) -> None:
    """Fill ``module`` from an official file; every key must be there and none left over.

    Raises:
        VaderError: Listing what does not fit.
    """
    tensors = unwrapped(load_tensors(path, needed_for=label), what=f"{label}: {path}")
    load_exactly(module, tensors, what=f"{label}: {path}")


def draw_into(module: nn.Module, key: str) -> None:
    """Fill ``module`` at random; rotary frequencies and the latents' normalisation keep their values.

    Args:
        module: The network.
        key: What sets its numbers apart from other networks', e.g. ``opensora denoiser``.
    """
    fill_randomly(module, 0, key, spread=_SPREAD)
    for inner in module.modules():
        if isinstance(inner, RotaryFrequencies):
            inner.reset()
