"""A clip in another form than mp4: a gif for a chat or a slide, a webm for a page. Costs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader_core.clips import BT709, LIMITED_RANGE, opened, pixels_of
from vader_core.errors import MachineError, VaderError
from vader_core.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: VP9's constant quality: hardly a difference to be seen, at a fraction of the mp4's size.
_QUALITY = "24"
#: Browsers slow a gif down to ten frames per second where its frames are shorter than this, in milliseconds.
_SHORTEST = 20


def convert(clip: Path, target: Path) -> Path:
    """Write a clip in the form that the target's ending names.

    Args:
        clip: Any video that can be read.
        target: Ends in one of :data:`FORMS`. Written beside it and renamed into place.

    Returns:
        ``target``.

    Raises:
        VaderError: No such form, or no video.
        MachineError: It cannot be written.
    """
    (form,) = checked_forms([target.suffix.removeprefix(".")])
    try:
        with opened(clip) as container:
            rate = Fraction(container.streams.video[0].average_rate or 8)
            frames = (pixels_of(frame) for frame in container.decode(video=0))
            with replacing(target) as beside:
                _WRITERS[form](frames, beside, rate, dict(container.metadata))
    except MachineError:
        raise
    except VaderError as error:
        raise VaderError(f"video {clip}: {error}") from error
    return target


def checked_forms(forms: Sequence[str]) -> tuple[str, ...]:
    """The distinct forms.

    Raises:
        VaderError: One that is none.
    """
    for form in forms:
        if form not in FORMS:
            raise VaderError(f"{form!r} is no form of a clip: use {' or '.join(FORMS)}")
    return tuple(dict.fromkeys(forms))


def _write_gif(frames: Iterator[NDArray[Any]], path: Path, rate: Fraction, words: dict[str, str]) -> None:
    from PIL import Image

    pictures = (Image.fromarray(frame) for frame in frames)
    first = next(pictures, None)
    if first is None:
        raise VaderError(f"{path.name}: the clip holds no frames")
    told = words.get("comment", "").encode()
    pace = max(_SHORTEST, round(1000 / rate))
    first.save(path, format="GIF", save_all=True, append_images=pictures, duration=pace, loop=0, comment=told)


def _write_webm(frames: Iterator[NDArray[Any]], path: Path, rate: Fraction, words: dict[str, str]) -> None:
    import av

    # absolute: FFmpeg takes a relative 12:30:05 for a protocol
    with av.open(str(path.absolute()), "w", format="webm") as container:
        container.metadata.update({key: words[key] for key in ("title", "comment") if key in words})
        options = {"crf": _QUALITY, "b": "0", "row-mt": "1", "deadline": "good", "cpu-used": "4"}
        stream = container.add_stream("libvpx-vp9", rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        for index, pixels in enumerate(frames):
            if not index:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=BT709)))
        container.mux(stream.encode())


_WRITERS: dict[str, Callable[[Iterator[Any], Path, Fraction, dict[str, str]], None]] = {
    "gif": _write_gif,
    "webm": _write_webm,
}
#: The forms, as endings of files.
FORMS = tuple(_WRITERS)
