"""LoRA files without names: a list of up and down matrix of one layer after another, matched by order.

That is how cloneofsimo's ``lora`` saves: ``torch.save([up, down, up, down, …])`` over every linear layer and
two- and three-dimensional convolution of a network, in the order of its modules. Down has the base layer's
kernel, up is 1x1, and the update is up(down(x)) with no scale.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vader_core.errors import VaderError
from vader_core.lora.formats import Adapter
from vader_core.weights import load_tensors

#: A layer's weight, [out, in, kernel…].
Shape = tuple[int, ...]


def first_shape(path: Path) -> Shape | None:
    """The shape of the first tensor of a torch file that is a bare list; ``None`` for any other file.

    The pickle is looked at, never run.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if not names:
            return None
        operations = [
            (operation.name, argument)
            for operation, argument, _ in pickletools.genops(archive.read(names[0]))
        ]
    named = [name for name, _ in operations]
    if next((name for name in named if name != "PROTO"), "") != "EMPTY_LIST" or "BINPERSID" not in named:
        return None
    sizes: list[int] = []
    # behind the storage stand its offset and the sizes, as a tuple
    for name, argument in operations[named.index("BINPERSID") + 2 :]:
        if name.startswith("TUPLE"):
            break
        if isinstance(argument, int) and not name.endswith("PUT"):
            sizes.append(argument)
    return tuple(sizes)


def read_listed(
    path: Path,
    shapes: Mapping[str, Shape],
    *,
    what: str,
    left_out: Mapping[str, tuple[str, Shape]] | None = None,
) -> Adapter:
    """Read such a list as an adapter whose alpha is its rank.

    Args:
        path: The file.
        shapes: The weight's shape of every layer that has a pair, in order.
        what: The format, for messages.
        left_out: Layers that the file may have a pair for and the network has not: name -> (the layer behind
            which it stands, its weight's shape). Their pairs are dropped.

    Raises:
        VaderError: No list of tensors, another number of them, or a shape that does not fit.
    """
    found = load_tensors(path, needed_for=what).get("")
    if not isinstance(found, list) or not all(isinstance(value, Tensor) for value in found):
        raise VaderError(f"{what}: {path} holds no bare list of tensors")
    if left_out and len(found) == 2 * (len(shapes) + len(left_out)):
        shapes = _with(shapes, left_out)
    if len(found) != 2 * len(shapes):
        raise VaderError(
            f"{what}: {path} holds {len(found)} tensors instead of {2 * len(shapes)} (up and down matrix of "
            f"each of {len(shapes)} layers of the U-Net); a text encoder's file cannot be read, and the "
            "official code never trains that one"
        )
    tensors: dict[str, Tensor] = {}
    for (module, shape), up, down in zip(shapes.items(), found[::2], found[1::2], strict=True):
        rank = len(down)
        wanted_up = (shape[0], rank, *(1 for _ in shape[2:]))
        if tuple(up.shape) != wanted_up or tuple(down.shape) != (rank, *shape[1:]):
            raise VaderError(
                f"{what}: {path}: up {tuple(up.shape)} and down {tuple(down.shape)} do not fit {module}, "
                f"whose weight is {shape}"
            )
        if module not in (left_out or {}):
            tensors[f"{module}.lora_A.weight"] = down.detach().float()
            tensors[f"{module}.lora_B.weight"] = up.detach().float()
    rank = max(len(down) for down in found[1::2])
    return Adapter(tensors, rank=rank, alpha=float(rank))


def _with(shapes: Mapping[str, Shape], more: Mapping[str, tuple[str, Shape]]) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        found[name] = shape
        found |= {extra: own for extra, (behind, own) in more.items() if behind == name}
    return found
