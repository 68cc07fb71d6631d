"""Tensors that lie in pieces on several processes, put together and taken apart."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def in_pieces(value: Any) -> TypeGuard[DTensor]:
    """Whether ``value`` is a tensor of which this process holds a part."""
    module = sys.modules.get("torch.distributed.tensor")  # nothing is in pieces before it is loaded
    return module is not None and isinstance(value, module.DTensor)


def whole(value: Tensor) -> Tensor:
    """The whole tensor; with a part here, everyone who holds one must ask."""
    return value.full_tensor() if in_pieces(value) else value


def whole_tree(tree: Any) -> Any:
    """The same containers with whole tensors on the CPU; everyone must ask."""
    if isinstance(tree, Mapping):
        return {key: whole_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole_tree(value) for value in tree)
    return whole(tree).cpu() if isinstance(tree, Tensor) else tree


def piece_like(value: Tensor, like: Tensor) -> Tensor:
    """``value``, whole and the same everywhere, cut as ``like`` is; as it is where ``like`` is whole."""
    if not in_pieces(like):
        return value
    if in_pieces(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    given = value.to(like.device)
    cut: Tensor = distribute_tensor(given, like.device_mesh, like.placements, src_data_rank=None)
    return cut


def own_piece(weight: Tensor) -> tuple[Tensor, slice]:
    """This process's rows of a weight, and which rows they are; all of them where it is whole."""
    if not in_pieces(weight):
        return weight, slice(0, len(weight))
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)
    start = int(offset[0]) if shape and shape[0] else 0
    return weight.to_local(), slice(start, start + int(shape[0] if shape else 0))


@torch.no_grad()
def copy_whole(into: Tensor, value: Tensor) -> None:
    """Copy ``value``, whole or cut alike, into ``into``."""
    into.copy_(piece_like(value, into))
