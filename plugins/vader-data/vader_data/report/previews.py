"""Small films of clips, to be put into the page itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import av

from ..clips import frames_of, length_of
from ..errors import ClipError
from ..manifest import Row

#: A preview: at most so wide, so long, so many frames per second.
_WIDTH, _SECONDS, _FPS = 240, 3.0, 8.0


def preview(row: Row, folder: Path) -> str:
    """A clip as a ``data:`` address of a small mp4, or of a PNG for an image.

    Args:
        row: Kept or rejected; a rejected clip is taken from its film.
        folder: What ``path`` is relative to.

    Returns:
        The address; an empty string where the clip cannot be read any more.
    """
    try:
        count, fps = length_of(row)
        if count < 1:
            return ""
        wanted = min(max(int(min(count / fps, _SECONDS) * _FPS), 1), count)
        step = max(fps / _FPS, 1.0)
        frames = frames_of(row, [min(int(place * step), count - 1) for place in range(wanted)], folder)
    except ClipError:
        return ""
    return f"data:video/mp4;base64,{base64.b64encode(_encoded(frames)).decode()}"


def _encoded(frames: Any) -> bytes:
    height, width = frames.shape[1:3]
    scale = min(_WIDTH / width, _WIDTH / height, 1.0)
    wide, high = (max(2 * round(length * scale / 2), 16) for length in (width, height))
    buffer = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(buffer, "w", format="mp4", options=options) as container:
        stream: Any = container.add_stream(
            "libx264", rate=int(_FPS), options={"crf": "28", "preset": "veryfast"}
        )
        stream.width, stream.height = wide, high
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture.reformat(wide, high, "yuv420p", interpolation="AREA")))
        container.mux(stream.encode())
    return buffer.getvalue()
