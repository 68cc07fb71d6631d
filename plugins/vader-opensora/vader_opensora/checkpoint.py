"""Official weight files, and random weights in their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.nn.build import fill_randomly
from vader_core.weights import WeightSource, load_exactly, load_tensors, locate
from vader_opensora.embeddings import RotaryFrequencies

if TYPE_CHECKING:
    from vader_core.weights import WeightFile

#: Prefixes that training wrappers put before every key.
_WRAPPERS = ("module.", "_orig_mod.")
#: Keys under which training scripts keep the weights.
_CONTAINERS = ("ema", "state_dict", "model")
#: Mean and standard deviation of random modulation tables and of the random null text.
_SPREAD = {"scale_shift_table": (0.0, 0.4), "y_embedding": (0.0, 0.5)}


def official(tensors: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors under their official names, freed of containers and wrappers' prefixes."""
    for container in _CONTAINERS:
        inner = tensors.get(container)
        if isinstance(inner, Mapping):
            tensors = inner
    named = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    for wrapper in _WRAPPERS:
        if named and all(name.startswith(wrapper) for name in named):
            named = {name.removeprefix(wrapper): value for name, value in named.items()}
    return named


def weight_file(source: WeightSource, pretrained: WeightFile, *, label: str, option: str) -> Path:
    """The file that a source means; in a folder, the official file name.

    Raises:
        VaderError: It is not there.
    """
    path = locate(source, pretrained, needed_for=label, option=option)
    if path.is_dir():
        path = path / pretrained.file
    if not path.is_file():
        raise VaderError(f"{label}: {path} is not a file; give a file, or a folder with {pretrained.file}")
    return path


<<<<<<< HEAD
def build(
    make: Callable[[], M], *, device: torch.device, dtype: torch.dtype, keep: Callable[[M], object]
) -> M:
    """A module with memory but without values, on ``device`` in ``dtype``.

    Args:
        make: Builds it; run on the meta device, so that no time goes into values that are replaced.
        device: Where it lives.
        dtype: Of its weights.
        keep: Sets the dtype of parts that differ.
    """
    with torch.device("meta"):
        module = make().to(dtype)
    keep(module)
    return module.to_empty(device=device).requires_grad_(False).eval()


def read_into(module: nn.Module, path: Path, label: str) -> None:
=======
def read_into(module: nn.Module, path: Path, *, part: str) -> None:
>>>>>>> main
    """Fill ``module`` from an official file; every key must be there and none left over.

    Raises:
        VaderError: Listing what does not fit.
    """
    tensors = official(load_tensors(path, needed_for=label))
    load_exactly(module, tensors, what=f"{label}: {path}")


<<<<<<< HEAD
@torch.no_grad()
def fill_randomly(module: nn.Module, seed: int = 0) -> None:
    """Values that leave nothing zero and no layer blind, drawn on the module's own device.

    Matrices have standard deviation 0.8 / sqrt(fan-in), modulation tables 0.4, the null text 0.5, biases 0.1;
    norm weights lie around 1. What has a formula or a published constant keeps it.
    """
    for name, value in module.state_dict().items():
        known = _constant(name, value)
        if known is not None:
            value.copy_(known)
            continue
        mean, deviation = _spread(name, value)
        generator = torch.Generator(value.device).manual_seed(derive_seed(seed, name))
        drawn = torch.empty(value.shape, device=value.device, dtype=torch.float32)
        value.copy_(drawn.normal_(mean, deviation, generator=generator))


def _constant(name: str, value: Tensor) -> Tensor | None:
    if name == "rope.freqs":
        return LONGEST_PERIOD ** -(torch.arange(len(value), dtype=torch.float64) / len(value))
    constants = {"scale": LATENT_SCALE, "shift": LATENT_SHIFT}
    return torch.tensor(constants[name]).view(value.shape) if name in constants else None


def _spread(name: str, value: Tensor) -> tuple[float, float]:
    if name.endswith(("scale_shift_table", "scale_shift_table_temporal")):
        return 0.0, 0.4
    if name.endswith("y_embedding"):
        return 0.0, 0.5
    if value.ndim > 1:
        return 0.0, 0.8 * value[0].numel() ** -0.5
    return (1.0, 0.2) if name.endswith("weight") else (0.0, 0.1)
=======
def draw_into(module: nn.Module, *, part: str) -> None:
    """Fill ``module`` at random; rotary frequencies and the latents' normalisation keep their values."""
    fill_randomly(module, 0, f"opensora {part}", spread=_SPREAD)
    for inner in module.modules():
        if isinstance(inner, RotaryFrequencies):
            inner.reset()
>>>>>>> main
