"""Weights that are cut before they are read: of a file each process reads its own rows, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vader_core.parallel.whole import in_pieces, own_piece, piece_of_rows

#: Which file a weight lies in, by its name there.
Files = Mapping[str, Path]


class Unread:
    """Networks with stand-ins for their weights, which lie in safetensors files.

    A stand-in has a weight's shape, dtype and device, and no memory but one number's, so that adapters find
    what they look for. Once a network is cut, :meth:`read` fills its pieces.
    """

    def __init__(self) -> None:
        #: The file and name of each weight, by its stand-in.
        self._places: dict[nn.Parameter, tuple[Path, str]] = {}
        self._cut: list[tuple[nn.Module, str, tuple[Path, str]]] = []

    def add(self, network: nn.Module, files: Files) -> None:
        """Put stand-ins in the place of a network's parameters, which are on the meta device.

        Args:
            network: With its buffers computed, and its parameters of the dtype that they are to have.
            files: Checked by :func:`covered`.
        """
        made: dict[nn.Parameter, nn.Parameter] = {}
        for prefix, part in network.named_modules():
            for name, bare in part.named_parameters(recurse=False, remove_duplicate=False):
                if bare not in made:
                    empty = torch.zeros((), dtype=bare.dtype).expand(bare.shape)
                    made[bare] = nn.Parameter(empty, requires_grad=False)
                    full = f"{prefix}.{name}" if prefix else name
                    self._places[made[bare]] = files[full], full
                setattr(part, name, made[bare])

    def on_meta(self, module: nn.Module) -> None:
        """Put every stand-in on the meta device, where torch cuts without a copy."""
        made: dict[nn.Parameter, nn.Parameter] = {}
        for part in module.modules():
            for name, stand_in in part.named_parameters(recurse=False, remove_duplicate=False):
                if stand_in not in self._places:
                    continue
                if stand_in not in made:
                    bare = torch.empty(stand_in.shape, dtype=stand_in.dtype, device="meta")
                    made[stand_in] = nn.Parameter(bare, requires_grad=False)
                setattr(part, name, made[stand_in])
                self._cut.append((part, name, self._places[stand_in]))

    def read(self, device: torch.device) -> None:
        """Read every weight that :meth:`on_meta` saw, or this process's rows of it, onto ``device``."""
        made: dict[Tensor, nn.Parameter] = {}
        for part, name, (path, key) in self._cut:
            bare = getattr(part, name)
            if bare not in made:
                own, rows = own_piece(bare)
                piece = read_rows(path, key, rows if own.numel() else None)
                held = torch.empty(piece.shape, dtype=bare.dtype, device=device).copy_(piece)
                found = piece_of_rows(held, bare) if in_pieces(bare) else held
                made[bare] = nn.Parameter(found, requires_grad=False)
            # Torch looks again for what it cut, before the first call.
            setattr(part, name, made[bare])
        self._cut = []


def read_rows(path: Path, name: str, rows: slice | None) -> Tensor:
    """Rows of a tensor in a safetensors file, mapped from it; none of them for ``None``.

    Args:
        path: The file.
        name: The tensor's.
        rows: Of its first axis.
    """
    # Opened for each, so that what was read of the file does not stay mapped.
    with safe_open(path, framework="pt") as file:
        found: Tensor = file.get_slice(name)[rows if rows is not None else slice(0, 1)]
    return found if rows is not None else found[:0]


def covered(network: nn.Module, files: Files) -> bool:
    """Whether the files hold every parameter of a network, by its own name and in its shape.

    A network that has buffers among its weights is none for :class:`Unread`.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if wanted.keys() != files.keys() or wanted.keys() != dict(network.named_parameters()).keys():
        return False
    for path in set(files.values()):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if files.get(name) == path and tuple(file.get_slice(name).get_shape()) != wanted[name]:
                    return False
    return True
