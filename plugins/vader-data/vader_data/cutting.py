"""Cutting: a span of a film as a file of its own, exact to the frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vader_core.files import replacing

from .errors import ClipError
from .plan import CutOptions
from .probe import Probe, probe
from .reading import decoded
from .spans import Span


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        num_frames: Frames in the file.
        fps: Frames per second.
        width: In pixels, even.
        height: In pixels, even.
    """

    num_frames: int
    fps: float
    width: int
    height: int


def written_size(height: int, width: int, options: CutOptions) -> tuple[int, int]:
    """Height and width of the file: ``shorter_side`` where it is given, both even.

    >>> written_size(1080, 1920, CutOptions(shorter_side=720)), written_size(97, 160, CutOptions())
    ((720, 1280), (96, 160))
    """
    side = options.shorter_side
    if side is None or (min(height, width) <= side and not options.enlarge):
        return max(height - height % 2, 2), max(width - width % 2, 2)
    scale = side / min(height, width)
    return tuple(max(2 * round(length * scale / 2), 2) for length in (height, width))  # type: ignore[return-value]


def cut(source: Path, span: Span, target: Path, options: CutOptions) -> Written:
    """Write a span as an mp4 (H.264, yuv420p, index first) beside ``target`` and rename it into place.

    Without ``fps`` every frame of the span is written once, at the film's mean rate. With it, frame k of the
    clip is the one that the film shows at k / fps. There is no sound.

    Args:
        source: The film.
        span: Of its frames.
        target: Where to; its folder is made.
        options: Rate, size and quality.

    Raises:
        ClipError: The film breaks within the span.
        MachineError: The disk is full or cannot be written.
    """
    facts = probe(source)
    height, width = written_size(facts.height, facts.width, options)
    rate = (
        Fraction(options.fps).limit_denominator(1001) if options.fps else facts.rate.limit_denominator(90_000)
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with (
        replacing(target) as beside,
        av.open(str(beside), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream: Any = container.add_stream(
            "libx264", rate=rate, options={"crf": str(options.crf), "preset": options.speed}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1  # shards run side by side
        for frame in _shown(source, facts, span, rate if options.fps else None):
            if count == 0:
                _same_colours(stream, frame)
            picture = _picture(frame, height, width, facts.turns)
            picture.pts, picture.time_base = count, 1 / rate
            container.mux(stream.encode(picture))
            count += 1
        container.mux(stream.encode())
    if count == 0:
        target.unlink(missing_ok=True)
        raise ClipError("there is no frame in the span")
    return Written(count, float(rate), width, height)


def _same_colours(stream: Any, frame: Any) -> None:
    """The file says of its colours what the film says: the numbers are handed on, not converted."""
    context = stream.codec_context
    context.colorspace = frame.colorspace
    context.color_range = frame.color_range
    context.color_primaries = frame.color_primaries
    context.color_trc = frame.color_trc


def _picture(frame: Any, height: int, width: int, turns: int) -> Any:
    if turns:
        turned = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
        upright = av.VideoFrame.from_ndarray(turned, format="rgb24")
        return upright.reformat(width, height, "yuv420p", dst_colorspace=frame.colorspace)
    if (frame.height, frame.width, frame.format.name) == (height, width, "yuv420p"):
        # a frame of its own: the decoder's buffers, time and picture type are not the encoder's
        return av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")
    return frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")


def _shown(source: Path, facts: Probe, span: Span, rate: Fraction | None) -> Iterator[Any]:
    if rate is None:
        for _, frame in decoded(source, facts, span.start, span.end):
            yield frame
        return
    began = facts.seconds(span.start)
    count = 0
    previous: Any = None
    for number, frame in decoded(source, facts, span.start, span.end):
        # half a unit of time is nothing: a film at `rate` must come out frame by frame
        while previous is not None and count / rate + 1e-6 < facts.seconds(number) - began:
            yield previous
            count += 1
        previous = frame
    while previous is not None and count / rate + 1e-6 < facts.seconds(span.end) - began:
        yield previous
        count += 1
