"""A film's facts, and where each of its frames lies, read without decoding more than one frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av

from vader_core.clips import container_of
from vader_core.paths import entered
from vader_core.pictures import is_hidden

from .errors import ClipError

#: Clips of one film are read one after the other, so few films need to be remembered.
_REMEMBERED = 4


@dataclass(frozen=True)
class Probe:
    """A film's facts.

    Args:
        num_frames: Frames in the file, counted.
        height: In pixels, upright (a phone's rotation flag applied).
        width: In pixels.
        rate: Frames per second, exact; the mean where the rate varies.
        pts: Presentation times of the frames, rising, in units of ``time_base``; empty where the file does
            not
            say them, and a frame can only be found by counting.
        time_base: Seconds per unit of ``pts``.
        turns: Quarter turns, counter-clockwise, that bring a decoded frame upright.
    """

    num_frames: int
    height: int
    width: int
    rate: Fraction
    pts: tuple[int, ...]
    time_base: Fraction
    turns: int = 0

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.rate)

    @property
    def aspect_ratio(self) -> float:
        """Height over width, as Open-Sora has it."""
        return self.height / self.width

    @property
    def resolution(self) -> int:
        """Height times width."""
        return self.height * self.width

    def seconds(self, frame: int) -> float:
        """When a frame begins, from the first one; the end of the film for ``num_frames``."""
        if self.pts and frame < self.num_frames:
            return float((self.pts[frame] - self.pts[0]) * self.time_base)
        if self.pts:
            return self.seconds(self.num_frames - 1) + float(1 / self.rate)
        return float(frame / self.rate)


def probe(path: Path) -> Probe:
    """The facts of a film; remembered for the last few.

    Raises:
        ClipError: Missing, not a video, no video in it, or nothing in it that can be decoded.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise ClipError(f"cannot be read: {error.strerror}") from error
    return _probe(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=_REMEMBERED)
def _probe(path: Path, modified: int, size: int) -> Probe:
    with opened(path) as (container, stream):
        packets = [(packet.pts, packet.is_discard) for packet in container.demux(stream) if packet.size]
        time_base = stream.time_base or Fraction(1, 1000)
        rate = stream.average_rate or stream.guessed_rate
    times = [pts for pts, discarded in packets if not discarded]
    if not times:
        raise ClipError("there are no frames in it")
    known = [pts for pts in times if pts is not None]
    pts = tuple(sorted(known)) if len(set(known)) == len(times) else ()
    if not rate and len(pts) > 1:
        rate = Fraction(len(pts) - 1) / ((pts[-1] - pts[0]) * time_base)
    first = _first_frame(path)
    turns = (first.rotation // 90) % 4
    height, width = (first.width, first.height) if turns % 2 else (first.height, first.width)
    return Probe(len(times), height, width, Fraction(rate or 25), pts, time_base, turns)


def _first_frame(path: Path) -> Any:
    with opened(path) as (container, stream):
        for frame in container.decode(stream):
            return frame
    raise ClipError("nothing in it can be decoded")


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream.

    FFmpeg is told what the first bytes say: a playlist would have it read other files.

    Raises:
        ClipError: Also in place of any of FFmpeg's errors inside the block.
    """
    try:
        with av.open(str(path.absolute()), format=_container_of(path)) as container:
            if not container.streams.video:
                raise ClipError("there is no video in it")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise ClipError(f"cannot be decoded: {error.strerror or error}") from error
    except (OSError, EOFError) as error:
        raise ClipError(f"cannot be read: {error}") from error


#: FFmpeg's names of containers that footage comes in beside the core's, by their first bytes.
_CONTAINERS = {
    b"\x00\x00\x01\xba": "mpeg",
    b"\x00\x00\x01\xb3": "mpegvideo",
    b"\x30\x26\xb2\x75": "asf",
    b"FLV\x01": "flv",
    b"OggS": "ogg",
    b"\x06\x0e\x2b\x34": "mxf",
    b"YUV4": "yuv4mpegpipe",
    b"GIF8": "gif",
}
#: Those whose files may begin in the middle of something.
_BY_ENDING = {
    ".ts": "mpegts",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
    ".h264": "h264",
    ".264": "h264",
    ".h265": "hevc",
    ".hevc": "hevc",
}
#: A transport stream's packets of 188 bytes begin with this; on some cameras behind four bytes of time.
_PACKET, _SYNC = 188, b"G"


def _container_of(path: Path) -> str:
    """The container by content.

    Raises:
        ClipError: Not a regular file, or none that films come in.
    """
    if not path.is_file():  # a pipe or a device would be waited for
        raise ClipError("cannot be read: it is not a regular file")
    with path.open("rb") as stream:
        start = stream.read(_PACKET + 9)
    found = container_of(start) or _CONTAINERS.get(start[:4])
    if found is None and any(
        start[at : at + 1] == start[at + step : at + step + 1] == _SYNC
        for at, step in ((0, _PACKET), (4, _PACKET + 4))
    ):
        found = "mpegts"
    found = found or _BY_ENDING.get(path.suffix.lower())
    if found is None:
        raise ClipError(
            "cannot be decoded: it is none of the containers that films come in, whatever its name says"
        )
    return found


#: What is taken for a film in a folder of footage.
FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")


def films(folder: Path) -> list[Path]:
    """The films in a folder and below it, in the order of their names; a film itself is a list of one."""
    folder = entered(folder).resolve()
    if folder.is_file():
        return [folder]
    found = (path for path in folder.rglob("*") if path.suffix.lower() in FILMS and path.is_file())
    return sorted(path for path in found if not is_hidden(path.relative_to(folder)))
