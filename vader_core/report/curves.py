"""Line charts as inline SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from vader_core.printable import printable
from vader_core.report.numbers import number, tick
from vader_core.run.record import Curve

_WIDTH, _HEIGHT = 340, 202
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 38
#: Behind these a long name may break.
_BREAKS = re.compile(r"([_/](?=\w)|\.(?=[A-Za-z]))")
#: More points than this are averaged in buckets before they are drawn.
_MOST_POINTS = 300
#: A curve that moves less than this is drawn flat: finer grids would be lost to rounding.
_FLAT = 1e-200


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Args:
        name: For the legend and the tooltips.
        points: (step, value).
        style: CSS class: ``trained``, ``faint`` or ``watched``.
        dots: Mark every point.
    """

    name: str
    points: Curve
    style: str = "trained"
    dots: bool = False


def breakable(text: object) -> Markup:
    """Escaped text whose long names may break behind an underscore, a slash or a dot.

    >>> breakable("demo_aesthetic <b>")
    Markup('demo_<wbr>aesthetic &lt;b&gt;')
    """
    return Markup(_BREAKS.sub(r"\1<wbr>", escape(printable(str(text)), quote=True)))


def chart(title: str, lines: Sequence[Line], marks: Sequence[float] = ()) -> Markup:
    """A figure with one chart, its texts escaped, or nothing where no line has a point.

    Args:
        title: Its caption.
        lines: Drawn in this order.
        marks: Steps at which a dashed line stands.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup()
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    frame = _Frame(min(xs), max(xs), *_padded(min(ys), max(ys)))
    parts = [_grid(frame), *(_mark(frame, step) for step in marks), *(_line(frame, line) for line in lines)]
    last = lines[-1].points[-1][1]
    legend = ""
    if len(lines) > 1:
        entries = (f'<span class="{line.style}">{escape(line.name)}</span>' for line in lines)
        legend = f'<span class="legend">{"".join(entries)}</span>'
    label = escape(f"{title} over training steps, last value {number(last)}", quote=True)
    return Markup(
        f'<figure class="chart"><figcaption><b>{breakable(title)}</b><span class="last">{number(last)}</span>'
        f'{legend}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg></figure>"
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within [low, high].

    >>> ticks(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    span = high - low
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return [(first + i) * step for i in range(count + 1)]


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    low: float
    high: float

    def x(self, step: float) -> float:
        span = self.right - self.left
        share = 0.5 if span == 0 else (step - self.left) / span
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.06
    if room <= max(abs(high) * 1e-9, _FLAT):  # a flat line gets room around it
        room = max(abs(high) * 0.1, 1.0 if abs(high) < _FLAT else 0.0)
    return max(low - room, 0.0) if low >= 0 else low - room, high + room


def _grid(frame: _Frame) -> str:
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in ticks(frame.low, frame.high):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5}" text-anchor="end">{tick(value)}</text>'
        )
    steps = [frame.left] if frame.right == frame.left else ticks(frame.left, frame.right)
    for step in steps:
        if step == int(step):
            x = frame.x(step)
            parts.append(
                f'<text class="tick" x="{x}" y="{floor + 16}" text-anchor="middle">{int(step)}</text>'
            )
    parts.append(f'<text class="tick" x="{right}" y="{_HEIGHT - 2}" text-anchor="end">optimizer step</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>')
    return "".join(parts)


def _mark(frame: _Frame, step: float) -> str:
    if not frame.left <= step <= frame.right:
        return ""
    x = frame.x(step)
    return (
        f'<line class="mark" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
        f"<title>alarm at step {step:g}</title></line>"
    )


def _line(frame: _Frame, line: Line) -> str:
    points = thinned(line.points)
    drawn = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
    parts = [f'<polyline class="{line.style}" points="{drawn}"/>']
    if line.dots or len(points) == 1:
        parts += [
            f'<circle class="{line.style}" cx="{frame.x(x)}" cy="{frame.y(y)}" r="3">'
            f"<title>{escape(line.name)}, step {x:g}: {number(y)}</title></circle>"
            for x, y in points
        ]
    return "".join(parts)


def thinned(points: Curve, most: int = _MOST_POINTS) -> Curve:
    """At most ``most`` points, each the mean of a run of neighbours.

    >>> thinned([(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0)], most=2)
    [(0.5, 2.0), (2.5, 6.0)]
    """
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def smoothed(points: Curve, share: float = 0.08) -> Curve:
    """A centred moving mean over ``share`` of the curve; short curves stay as they are."""
    reach = int(len(points) * share / 2)
    if reach < 1:
        return points
    found = []
    for index, (x, _) in enumerate(points):
        near = points[max(index - reach, 0) : index + reach + 1]
        found.append((x, sum(y for _, y in near) / len(near)))
    return found
