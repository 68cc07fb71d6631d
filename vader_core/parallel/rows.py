"""Weights read once they are cut: of a file each process reads its own rows, and no others."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vader_core.parallel.whole import in_pieces, own_piece, piece_of_rows
from vader_core.unread import Unread


def read_pieces(unread: Unread, device: torch.device) -> None:
    """Read every weight that :meth:`Unread.on_meta` saw, or this process's rows of it, onto ``device``."""
    made: dict[Tensor, nn.Parameter] = {}
    for part, name, (path, key) in unread.cut:
        bare = getattr(part, name)
        if bare not in made:
            own, rows = own_piece(bare)
            piece = read_rows(path, key, rows if own.numel() else None)
            held = torch.empty(piece.shape, dtype=bare.dtype, device=device).copy_(piece)
            found = piece_of_rows(held, bare) if in_pieces(bare) else held
            made[bare] = nn.Parameter(found, requires_grad=False)
        # Torch looks again for what it cut, before the first call.
        setattr(part, name, made[bare])
    unread.cut = []


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
