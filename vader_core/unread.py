"""Weights left in their files until the network that they belong to is cut over several processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

#: Which file a weight lies in, by its name there.
Files = Mapping[str, Path]


class Unread:
    """Networks with stand-ins for their weights, which lie in safetensors files.

    A stand-in has a weight's shape, dtype and device, and no memory but one number's, so that adapters find
    what they look for. Once a network is cut, its pieces are read (``parallel/rows.py``).
    """

    def __init__(self) -> None:
        #: The file and name of each weight, by its stand-in.
        self._places: dict[nn.Parameter, tuple[Path, str]] = {}
        #: Modules whose parameter of a name is on the meta device now, and the file and name of its values.
        self.cut: list[tuple[nn.Module, str, tuple[Path, str]]] = []

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
                self.cut.append((part, name, self._places[stand_in]))


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
