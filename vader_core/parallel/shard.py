"""Weights that several processes hold in pieces, gathered block by block while they are used.

Torch's ``fully_shard``. What is trained beside the weights (an adapter) is left out: it stays whole and plain
on every process, so that files, averages and the optimizer know nothing of pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from vader_core.parallel.whole import in_pieces


class Sharded:
    """A network in pieces.

    Args:
        module: The network, anywhere; its pieces go to the mesh's device, block by block.
        blocks: Modules within it that are gathered on their own, none within another.
        mesh: The processes that share it.
        whole: Parameters that stay whole; they are moved to the device.
        rest: Cut what lies in no block too; that asks for a module whose ``forward`` is what is called.
    """

    def __init__(
        self,
        module: nn.Module,
        blocks: Sequence[nn.Module],
        mesh: DeviceMesh,
        whole: Iterable[nn.Parameter] = (),
        *,
        rest: bool = True,
    ) -> None:
        ignored = set(whole)
        device = torch.device(mesh.device_type)
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        for parameter in ignored:
            parameter.data = parameter.data.to(device)
        for block in blocks:
            # Said, because torch keeps gathered what stands within no other module that it cut.
            fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
        roots = networks_called(module) if rest else []
        self.roots = [fully_shard(root, mesh=mesh, ignored_params=ignored) for root in roots]
        for tensor in (*module.parameters(), *module.buffers()):
            if not in_pieces(tensor):
                tensor.data = tensor.data.to(device)
        self.bytes_whole = sum(
            parameter.numel() * parameter.element_size()
            for parameter in module.parameters()
            if in_pieces(parameter)
        )
        self._inner = [part for part in module.modules() if isinstance(part, FSDPModule)]
        self._inner = [part for part in self._inner if part not in self.roots]

    def part(self) -> None:
        """Let go of every gathered weight."""
        for part in (*self._inner, *self.roots):
            part.reshard()

    def keep(self, on: bool) -> None:
        """Whether gathered weights are kept until :meth:`part`."""
        for part in self._inner:
            part.set_reshard_after_forward(not on, recurse=False)


class KeptGathered:
    """Keeps the weights gathered while no graph is recorded: each is sent once a rollout, not once a step.

    Args:
        sharded: The denoiser.
    """

    #: Validation and sampling use it too.
    exact = True
    #: What it holds beside the model.
    holds = "gathered weights"

    def __init__(self, sharded: Sharded) -> None:
        self._sharded = sharded
        self._kept = False

    @property
    def bytes(self) -> int:
        """Memory of the whole weights."""
        return self._sharded.bytes_whole

    def on(self) -> None:
        """Keep what is gathered from now on."""
        if not self._kept:
            self._sharded.keep(True)
            self._kept = True

    def off(self) -> None:
        """Let go of it."""
        if self._kept:
            self._sharded.keep(False)
            self._sharded.part()
            self._kept = False


def networks_called(module: nn.Module) -> list[nn.Module]:
    """The modules within a container that are called; a module that is none is called itself."""
    if isinstance(module, nn.ModuleDict | nn.ModuleList):
        children = module.values() if isinstance(module, nn.ModuleDict) else module
        return [called for child in children for called in networks_called(child)]
    return [module]


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The members of a network's longest lists of modules, for networks that name no blocks of their own.

    None within another; empty for a network without lists.
    """
    found: list[nn.Module] = []

    def look(part: Any) -> None:
        for child in part.children():
            if isinstance(child, nn.ModuleList) and len(child) > 1:
                found.extend(child)
            else:
                look(child)

    look(module)
    return found
