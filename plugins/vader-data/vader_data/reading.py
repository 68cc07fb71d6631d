"""Frames of a span of a film: found by seeking, exact, decoded once however many scorers ask."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ClipError
from .probe import Probe, opened, probe


class Decoding(threading.local):
    """How long frames were decoded for in this thread, in seconds, since the last :meth:`take`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.frames = 0

    def add(self, seconds: float, frames: int = 1) -> None:
        """Count decoded frames."""
        self.seconds += seconds
        self.frames += frames

    def take(self) -> tuple[float, int]:
        """Seconds and frames, and both begin again at zero."""
        found = (self.seconds, self.frames)
        self.seconds, self.frames = 0.0, 0
        return found


#: One per thread: stages say how much of their time was decoding.
DECODING = Decoding()


def decoded(
    path: Path, facts: Probe, start: int, end: int, *, strict: bool = True
) -> Iterator[tuple[int, Any]]:
    """The frames ``start`` to ``end`` (not included) of a film, each with its number.

    Args:
        path: The film.
        facts: Of it.
        start: First frame.
        end: One past the last.
        strict: A film that ends before ``end`` is an error.

    Yields:
        Frame number and the ``av.VideoFrame``, as decoded (not turned upright).

    Raises:
        ClipError: The film breaks, or ends too early.
    """
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        number, last = 0, start - 1
        if facts.pts and start > 0:
            container.seek(facts.pts[start], stream=stream, backward=True)
        clock = time.perf_counter()
        for frame in container.decode(stream):
            if facts.pts:
                number = _number(facts, frame.pts)
            if number >= end:
                break
            if number >= start:
                DECODING.add(time.perf_counter() - clock)
                yield number, frame
                last = number
                clock = time.perf_counter()
            number += 1
        DECODING.add(time.perf_counter() - clock, 0)
    if strict and last < end - 1:
        raise ClipError(f"it breaks off: frame {last + 1} of {facts.num_frames} is missing")


def _number(facts: Probe, pts: int | None) -> int:
    if pts is None:
        raise ClipError("a frame has no time")
    return max(bisect_right(facts.pts, pts) - 1, 0)


def pixels(frame: Any, turns: int) -> np.ndarray:
    """A decoded frame as uint8 [H, W, 3], RGB, upright."""
    found = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(found, turns)) if turns else found


def read_frames(path: Path, indices: Sequence[int], start: int = 0, end: int | None = None) -> np.ndarray:
    """Chosen frames of a span.

    Args:
        path: The film.
        indices: Frames of the span, from 0, in any order, repeats allowed.
        start: Where the span begins in the film.
        end: One past its last frame; ``None`` is the film's end.

    Returns:
        uint8 [len(indices), H, W, 3], RGB.

    Raises:
        ClipError: A frame is not there.
    """
    facts = probe(path)
    last = facts.num_frames if end is None else end
    wanted = sorted({start + index for index in indices})
    if not wanted:
        return np.zeros((0, facts.height, facts.width, 3), np.uint8)
    if wanted[0] < 0 or wanted[-1] >= last:
        raise ClipError(f"frame {wanted[-1] - start} was asked for, but the clip has {last - start}")
    found: dict[int, np.ndarray] = {}
    for begin, stop in _runs(facts, wanted):
        chosen = {number for number in wanted if begin <= number < stop}
        for number, frame in decoded(path, facts, begin, stop):
            if number in chosen:
                found[number] = pixels(frame, facts.turns)
    missing = [number for number in wanted if number not in found]
    if missing:
        raise ClipError(f"frame {missing[0]} of {facts.num_frames} cannot be decoded")
    return np.stack([found[start + index] for index in indices])


#: A gap longer than this is worth a seek (x264's default distance between key frames).
_WORTH_A_SEEK = 250


def _runs(facts: Probe, wanted: Sequence[int]) -> Iterator[tuple[int, int]]:
    begin = previous = wanted[0]
    for number in wanted[1:]:
        if facts.pts and number - previous > _WORTH_A_SEEK:
            yield begin, previous + 1
            begin = number
        previous = number
    yield begin, previous + 1
