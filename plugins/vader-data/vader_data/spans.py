"""From boundaries to clips: which spans are cut, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .plan import CutOptions

#: What EasyAnimate's cutter takes for the rate of a film without a cut.
_UPSTREAM_FPS = 25.0


@dataclass(frozen=True)
class Span:
    """Frames ``start`` to ``end`` (not included) of a film.

    Args:
        start: First frame.
        end: One past the last.
        reason: Why it is not cut; empty where it is.
    """

    start: int
    end: int
    reason: str = ""


def spans(
    boundaries: Sequence[int], num_frames: int, fps: float, options: CutOptions, shortest: int = 0
) -> list[Span]:
    """The clips of a film.

    Args:
        boundaries: Where scenes begin and end; empty for a film without a cut.
        num_frames: Of the film.
        fps: Of the film.
        options: Lengths, and what to do with longer scenes.
        shortest: Scenes with fewer frames are rejected.

    Returns:
        In the order of the film; spans that are too short with the reason.

    >>> spans([0, 60, 150], 150, 25.0, CutOptions(min_seconds=3.0))
    [Span(start=0, end=60, reason='shorter than 3 s'), Span(start=60, end=150, reason='')]
    """
    if not boundaries and options.uncut_at_25_fps:
        return list(_split(0, num_frames - 1, num_frames, _UPSTREAM_FPS, options))
    edges = boundaries or [0, num_frames]
    found: list[Span] = []
    for start, end in pairwise(edges):
        if boundaries and end - start < shortest:
            found.append(Span(start, end, f"a scene of fewer than {shortest} frames"))
        else:
            found += _split(start, end, end, fps, options)
    return found


def _split(start: int, end: int, told: int, fps: float, options: CutOptions) -> Iterator[Span]:
    """The spans of one scene, measured up to ``end``; one that reaches it is told to end at ``told``."""
    length = end - start
    low, high = options.min_seconds, options.max_seconds
    if low is not None and length < low * fps:
        yield Span(start, told, f"shorter than {low:g} s")
    elif high is None or length <= high * fps:
        yield Span(start, told)
    elif options.longer == "beginning":
        yield Span(start, start + round(high * fps))
    else:
        size = int(high * fps)
        while start + size <= end:
            yield Span(start, start + size)
            start += size
        if end - start > (low or 0.0) * fps:
            yield Span(start, told)
        elif end > start:
            yield Span(start, told, f"left over, not longer than {low or 0.0:g} s")


def whole_seconds(span: Span, fps: float, num_frames: int) -> Span:
    """Open-Sora 1.1's reading of a span's times: rounded to whole seconds.

    >>> whole_seconds(Span(60, 110), 25.0, 300)
    Span(start=50, end=100, reason='')
    """
    start, end = (min(round(round(frame / fps) * fps), num_frames) for frame in (span.start, span.end))
    if end <= start and not span.reason:
        return Span(start, end, "nothing is left of it in whole seconds")
    return Span(start, end, span.reason)
