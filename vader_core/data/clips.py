"""Clips read from files: what a file holds, and chosen frames of it, without decoding the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vader_core.clips import opened, pixels_of
from vader_core.errors import VaderError
from vader_core.pictures import first_bytes, read_picture, sniffed
from vader_core.prompts import Shape

# A time that is meant to meet a frame's beginning may fall this share of a frame before it.
_SLACK = 0.01


def probe(path: Path, *, check: bool = False) -> Shape:
    """What a file holds, from its header.

    Args:
        path: A clip or a picture.
        check: Also read every packet (not decoding it), so that a file that was cut off is found.

    Raises:
        VaderError: It cannot be read, or holds no picture.
    """
    if _is_picture(path):
        height, width = _picture(path).shape[-2:]
        return Shape(1, height, width)
    with _opened(path) as (container, stream):
        rate = _rate(stream)
        frames = int(stream.frames)
        if check or not frames:
            counted, check = sum(1 for packet in container.demux(stream) if packet.size), True
            if frames and counted < frames:
                raise VaderError(f"the header promises {frames} frames, but the file holds {counted}")
            frames = counted
        if not frames:
            raise VaderError("it holds no frames")
        if check:
            container.seek(0)
        first = next(container.decode(stream), None)  # a phone's clip is turned by its frames' own matrix
        if first is None:
            raise VaderError("it holds no frames")
        height, width = pixels_of(first).shape[:2]
        return Shape(frames, height, width, rate)


def read_frames(
    path: Path, indices: Sequence[int], *, rate: float, start: float = 0.0
) -> Iterator[UInt8[Tensor, "3 H W"]]:
    """Chosen frames of a clip, one after the other, as bytes.

    One at a time, so that each is brought to a size while it is in the processor's cache.

    Args:
        path: A clip or a picture.
        indices: Which frames, counted from ``start`` in steps of 1 / ``rate`` seconds; rising, may repeat.
        rate: The file's frames per second.
        start: Seconds.

    Raises:
        VaderError: It cannot be decoded, or ends before the last of ``indices``.
    """
    if _is_picture(path):
        yield from _picture(path).expand(len(indices), -1, -1, -1)
        return
    times = [start + index / rate for index in indices]
    with _opened(path) as (container, stream):
        for frame in _shown(container, stream, times, rate):
            yield frame.permute(2, 0, 1)


def _shown(container: Any, stream: Any, times: Sequence[float], rate: float) -> Iterator[Tensor]:
    """The frame that a player shows at each of ``times``."""
    from av.video.reformatter import VideoReformatter

    colours = VideoReformatter()
    base, offset = float(stream.time_base), float((stream.start_time or 0) * stream.time_base)
    if times[0] > 1 / rate:
        container.seek(int((times[0] + offset) / base), stream=stream)
    wanted = iter(times)
    time = next(wanted)
    held: Any = None
    for number, frame in enumerate(container.decode(stream)):
        moment = number / rate if frame.pts is None else frame.pts * base - offset
        while held is not None and moment > time + _SLACK / rate:
            yield _bytes(held, colours)
            following = next(wanted, None)
            if following is None:
                return
            time = following
        held = frame
        last = moment
    if held is None:
        raise VaderError("it holds no frames")
    while time < last + (1 - _SLACK) / rate:
        yield _bytes(held, colours)
        following = next(wanted, None)
        if following is None:
            return
        time = following
    raise VaderError(f"it ends at {last + 1 / rate:.2f} s, before the frame at {time:.2f} s")


def _bytes(frame: Any, colours: Any) -> Tensor:
    return torch.from_numpy(pixels_of(frame, colours))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    with opened(path) as container:
        yield container, container.streams.video[0]


def _rate(stream: Any) -> float:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VaderError("it says no frame rate")
    return float(rate)


def _is_picture(path: Path) -> bool:
    return sniffed(first_bytes(path)) is not None


def _picture(path: Path) -> UInt8[Tensor, "1 3 H W"]:
    picture = read_picture(path)
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).permute(2, 0, 1)[None]
