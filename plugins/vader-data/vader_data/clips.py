"""A clip's frames, wherever they lie, and answers about clips that cannot harm each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from vader_core.errors import VaderError
from vader_core.pictures import read_picture

from .contracts import Clip
from .errors import ClipError, stops_the_run
from .manifest import Row
from .probe import probe
from .reading import read_frames

T = TypeVar("T")
A = TypeVar("A")


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Runs of at most ``size`` items.

    >>> list(batched([1, 2, 3], 2))
    [[1, 2], [3]]
    """
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def frames_of(row: Row, indices: Sequence[int], folder: Path) -> np.ndarray:
    """Frames of a clip: of its span of the film, or of its own file where the film is gone.

    The film comes first because x264 does not write the same clip twice, bit for bit, and a score must not
    depend on that: the same plan gives the same table on every engine and after every interruption.

    Args:
        row: The clip's, or an image's.
        indices: From 0.
        folder: What ``path`` is relative to.

    Returns:
        uint8 [len(indices), H, W, 3], RGB.

    Raises:
        ClipError: They cannot be read.
    """
    if row["type"] == "image":
        return np.repeat(_picture(folder / row["path"])[None], len(indices), axis=0)
    if _film_is_gone(row):
        return read_frames(folder / row["path"], indices)
    return read_frames(Path(row["source"]), indices, row["start_frame"], row["end_frame"])


def _film_is_gone(row: Row) -> bool:
    return bool(row["path"]) and not Path(row["source"]).is_file()


def _picture(path: Path) -> np.ndarray:
    try:
        return np.asarray(read_picture(path))
    except VaderError as error:
        raise ClipError(str(error)) from error


def length_of(row: Row) -> tuple[int, float]:
    """Frames and rate of what :func:`frames_of` reads."""
    if row["type"] == "image":
        return 1, 1.0
    if _film_is_gone(row):
        return row["num_frames"], row["fps"]
    return row["end_frame"] - row["start_frame"], probe(Path(row["source"])).fps


def seen(row: Row, wanted: Callable[[int, float], Sequence[int]], folder: Path) -> Clip:
    """A clip with the frames that ``wanted(num_frames, fps)`` names.

    Raises:
        ClipError: They cannot be read.
    """
    count, fps = length_of(row)
    indices = tuple(wanted(count, fps))
    pixels = frames_of(row, indices, folder)
    return Clip(row["id"], pixels, indices, count, fps, row["text"] or "", row["type"] == "image")


def part(clip: Clip, indices: Sequence[int]) -> Clip:
    """The clip with some of its frames."""
    place = {index: position for position, index in enumerate(clip.indices)}
    frames = clip.frames[[place[index] for index in indices]]
    return Clip(clip.id, frames, tuple(indices), clip.num_frames, clip.fps, clip.text, clip.image)


def answers(work: Callable[[Sequence[Clip]], Sequence[A]], clips: Sequence[Clip]) -> list[A | Exception]:
    """One answer per clip; where the batch fails, each clip on its own, so that none harms another."""
    try:
        found = list(work(clips))
    except Exception as error:  # a stranger's component may raise anything
        if stops_the_run(error):
            raise
        if len(clips) == 1:
            return [error]
        return [answer for clip in clips for answer in answers(work, [clip])]
    if len(found) != len(clips):
        raise ValueError(f"{len(clips)} clips were handed over, but {len(found)} answers came back")
    return list(found)
