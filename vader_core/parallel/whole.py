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
    return kind_of_pieces(type(value))


def kind_of_pieces(kind: type) -> bool:
    """Whether tensors of a class are held in parts."""
    module = sys.modules.get("torch.distributed.tensor")  # nothing is in pieces before it is loaded
    return module is not None and issubclass(kind, module.DTensor)


def whole(value: Tensor) -> Tensor:
    """The whole tensor; with a part here, everyone who holds one must ask."""
    return value.full_tensor() if in_pieces(value) else value


def whole_tree(tree: Any, *, keep: bool = True) -> Any:
    """The same containers with whole tensors on the CPU; everyone must ask.

    Args:
        tree: Dicts, lists and tuples of tensors and whatever else.
        keep: Otherwise nothing but the asking is done, and what is left of a tensor in pieces is ``None``.
    """
    if isinstance(tree, Mapping):
        return {key: whole_tree(value, keep=keep) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole_tree(value, keep=keep) for value in tree)
    if not isinstance(tree, Tensor):
        return tree
    found = whole(tree)
    return found.cpu() if keep else None


def piece_like(value: Tensor, like: Tensor) -> Tensor:
    """``value``, whole and the same everywhere, cut as ``like`` is; as it is where ``like`` is whole."""
    if not in_pieces(like) or in_pieces(value):
        return value
    own, rows = own_piece(like)
    return piece_of_rows(value[rows].to(own.device, copy=True), like)


def piece_of_rows(rows: Tensor, like: DTensor) -> DTensor:
    """This process's rows of a tensor as a piece of it, cut as ``like`` is."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def own_piece(weight: Tensor) -> tuple[Tensor, slice]:
    """This process's rows of a weight, and which rows they are; all of them where it is whole."""
    if not in_pieces(weight):
        return weight, slice(0, weight.shape[0] if weight.ndim else None)  # a number has no rows
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)
    start = int(offset[0]) if shape and shape[0] else 0
    return weight.to_local(), slice(start, start + int(shape[0] if shape else 0))


@torch.no_grad()
def copy_whole(into: Tensor, value: Tensor) -> None:
    """Copy ``value`` into ``into``: whole, cut alike, or this process's piece."""
    if not in_pieces(into):
        into.copy_(value)
        return
    own, rows = own_piece(into)
    if in_pieces(value):
        own.copy_(value.to_local())
    else:
        own.copy_(value[rows] if value.shape == into.shape else value)
