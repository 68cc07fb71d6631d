"""Video files, decoded as a player shows them: turned by the display matrix, from named containers only.

FFmpeg is handed an open file and the container that its first bytes say, never a name: nothing can be taken
for a playlist, a protocol or another file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader_core.archives import open_bytes
from vader_core.errors import VaderError
from vader_core.pictures import first_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Endings by which videos are found in a folder or a table.
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
#: FFmpeg's numbers of the colours that clips are written in.
BT709, LIMITED_RANGE = 1, 1
#: Boxes that an MP4 or QuickTime file may begin with.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def container_of(start: bytes) -> str | None:
    """FFmpeg's name of the container that ``start`` begins (mp4 and mov, webm and mkv, avi), or ``None``."""
    if start[4:8] in _BOXES:
        return "mov"
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return "avi" if start.startswith(b"RIFF") and start[8:12] == b"AVI " else None


def decode(path: Path) -> Iterator[NDArray[Any]]:
    """Every frame of a video file, [H, W, 3] uint8 RGB, upright, one after the other.

    Raises:
        VaderError: No video of the named containers, or damaged.
    """
    from av.video.reformatter import VideoReformatter

    try:
        with opened(path) as container:
            colours = VideoReformatter()
            for frame in container.decode(video=0):
                yield pixels_of(frame, colours)
    except VaderError as error:
        raise VaderError(f"video {path}: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A video file in PyAV, by its content; FFmpeg's errors while it is open are one message.

    Raises:
        VaderError: Without the path: no video of the named containers, or damaged.
    """
    import av

    container = container_of(first_bytes(path, what="video"))
    if container is None:
        raise VaderError(
            "it cannot be read: it is none of mp4, mov, webm, mkv and avi, whatever its name says"
        )
    try:
        with open_bytes(path) as stream, av.open(stream, "r", format=container) as found:
            if not found.streams.video:
                raise VaderError("there is no video in this file")
            yield found
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise VaderError(f"it cannot be read: {error}") from error


def pixels_of(frame: Any, colours: Any = None) -> NDArray[Any]:
    """A decoded frame as a player shows it, [H, W, 3] uint8 RGB.

    Args:
        frame: As PyAV decodes it.
        colours: A ``VideoReformatter`` that turns its colours into RGB; kept over the frames of a clip it is
            twice as fast as one of each frame's own.
    """
    rgb = frame.to_ndarray(format="rgb24") if colours is None else _in_rgb(frame, colours)
    return _upright(rgb, _matrix(frame))


def _in_rgb(frame: Any, colours: Any) -> NDArray[Any]:
    found: NDArray[Any] = colours.reformat(frame, format="rgb24").to_ndarray()
    return found


def _matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """The linear part of the frame's display matrix: where a step right and a step down lead."""
    import struct

    from av.sidedata.sidedata import Type

    held = frame.side_data.get(Type.DISPLAYMATRIX)
    if held is None:
        return None
    right_x, right_y, _, down_x, down_y = struct.unpack("<5i", bytes(held)[:20])
    return right_x, right_y, down_x, down_y


def _upright(pixels: NDArray[Any], matrix: tuple[int, int, int, int] | None) -> NDArray[Any]:
    """``pixels`` turned and mirrored by quarter turns, as the matrix says."""
    if matrix is None:
        return pixels
    right_x, right_y, down_x, down_y = matrix
    if abs(right_x) >= abs(right_y):
        turned, across, along = pixels, right_x, down_y
    else:
        turned, across, along = pixels.swapaxes(0, 1), down_x, right_y
    turned = turned[:, ::-1] if across < 0 else turned
    turned = turned[::-1] if along < 0 else turned
    return turned.copy() if turned is not pixels else pixels
