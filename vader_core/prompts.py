"""The prompt source contract: what to ask the model for."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING: Mapping[str, Any] = MappingProxyType({})

#: Rounds of :func:`shuffled_index`: with 16, the orders of a short list come equally often.
_ROUNDS = 16


@dataclass(frozen=True)
class Shape:
    """The size of a clip, known without decoding it.

    Args:
        frames: Frames that can be read, 1 for a picture.
        height: Pixels, as it is shown.
        width: Pixels, as it is shown.
        fps: Frames per second; ``None`` where the file does not say.
    """

    frames: int
    height: int
    width: int
    fps: float | None = None


@dataclass(frozen=True)
class Clip:
    """A video to learn from. Two are equal when they name the same part of the same file.

    Args:
        path: The file: a video, or a picture, which is a video of one frame.
        start: Seconds at which the clip begins in the file.
        end: Seconds at which it ends; ``None`` is the file's end.
        pixels: Once it is read: [F, 3, H, W], RGB in [0, 1], float32, at its batch's geometry.
        entry: In a cache of latents: the name of this clip's in the file ``path``.
        latents: Once they are read from there: [C, T, h, w], float32.
        first: With them, for a model that starts from a picture: the first frame, [3, H, W] in [0, 1].
    """

    path: Path
    start: float = 0.0
    end: float | None = None
    pixels: Tensor | None = field(default=None, compare=False)
    entry: str | None = None
    latents: Tensor | None = field(default=None, compare=False)
    first: Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Prompt:
    """One request to a video model.

    Args:
        text: What the video should show.
        negative: What it should not show; ``None`` leaves the backbone's own negative prompt.
        image: The picture that an image-to-video model starts from, as a file.
        metadata: Whatever else the source knows, e.g. ``{"label": "playing piano"}``; rewards may read it.
        video: What the text describes, where it is to be learned from.
    """

    text: str
    negative: str | None = None
    image: Path | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    video: Clip | None = None


class PromptSource(ABC):
    """Prompts for training and for evaluation, as a pure function of seed and index."""

    #: How many prompts are for evaluation alone; ``None`` where the source does not say.
    held_out_count: int | None = None

    @abstractmethod
    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """The training prompts at ``indices`` of the stream that ``seed`` names.

        Indices are global sample indices, without bound.

        Equal arguments give equal prompts, in any order of calls and in any process.
        """

    @abstractmethod
    def all(self) -> list[Prompt]:
        """Every evaluation prompt, in a fixed order; a held-out set where the source has one."""

    def every(self) -> list[Prompt]:
        """What is sampled where nothing is trained: those of :meth:`all`, or all that the source holds."""
        return self.all()

    def clips(self) -> Sequence[Prompt]:
        """Every training prompt that has a ``video``, in a fixed order; none by default."""
        return []

    def shapes(self) -> Sequence[Shape]:
        """The size of each of :meth:`clips`, without decoding it."""
        return []


def shuffled_index(index: int, size: int, seed: int) -> int:
    """Position of draw ``index`` in endless passes over ``size`` items, each pass in its own shuffled order.

    A draw costs the same for any ``size``: no order of a pass is ever written down.

    Args:
        index: Number of the draw, from 0.
        size: How many items there are, at least 1.
        seed: Names the stream.

    Returns:
        An integer in [0, size). Within a pass no item comes twice.

    >>> sorted(shuffled_index(i, 5, seed=3) for i in range(5, 10))
    [0, 1, 2, 3, 4]
    """
    turn, position = divmod(index, size)
    rows = math.isqrt(size - 1) + 1  # ceil of the square root
    rows += rows % 2  # an even number, so that odd permutations are reached too
    columns = -(-size // rows)
    while True:  # the grid is larger than the list by less than one row: positions outside move once more
        position = _permuted(position, rows, columns, f"{seed}/{turn}")
        if position < size:
            return position


def _permuted(position: int, rows: int, columns: int, key: str) -> int:
    """A bijection of the ``rows`` x ``columns`` grid: a Feistel network with sums in place of xor.

    Each round shifts one coordinate by a keyed hash of the other, which can be undone; no list is made, so a
    draw costs the same however many items there are.
    """
    row, column = divmod(position, columns)
    for round_ in range(0, _ROUNDS, 2):
        row = (row + _hashed(f"{key}/{round_}/{column}")) % rows
        column = (column + _hashed(f"{key}/{round_ + 1}/{row}")) % columns
    return row * columns + column


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
