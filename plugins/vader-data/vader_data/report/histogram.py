"""Histograms as inline SVG, the thresholds drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 520, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 18, 30
_BINS = 40


def histogram(name: str, values: Sequence[float], low: float | None, high: float | None) -> str:
    """A figure of one score, or an empty string where there is no value.

    Args:
        name: Of the score.
        values: Finite.
        low: Smallest value that is kept.
        high: Largest value that is kept.
    """
    if not values:
        return ""
    bounds = [bound for bound in (low, high) if bound is not None]
    left, right = min([*values, *bounds]), max([*values, *bounds])
    if left == right:
        left, right = left - 0.5, right + 0.5
    counts = binned(values, left, right)
    kept = sum((low is None or value >= low) and (high is None or value <= high) for value in values)
    label = f"{name}: {len(values)} clips, {kept} within the bounds"
    parts = [_bars(counts, left, right, low, high), _axis(left, right, max(counts))]
    parts += [_threshold(bound, left, right) for bound in bounds]
    return (
        f'<figure class="chart"><figcaption><b>{escape(name)}</b><span>{len(values)} clips, '
        f'{kept} within the bounds</span></figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg></figure>'
    )


def binned(values: Sequence[float], left: float, right: float, bins: int = _BINS) -> list[int]:
    """Values per bin of equal width over [left, right].

    >>> binned([0.0, 1.0, 1.0], 0.0, 1.0, bins=2)
    [1, 2]
    """
    counts = [0] * bins
    for value in values:
        counts[min(int((value - left) / (right - left) * bins), bins - 1)] += 1
    return counts


def number(value: float) -> str:
    """Four significant digits, with a true minus sign.

    >>> number(-0.5), number(12345.678)
    ('−0.5', '1.235e+04')
    """
    return f"{value:.4g}".replace("-", "−", 1) if value < 0 else f"{value:.4g}"


def ticks(left: float, right: float, most: int = 6) -> list[float]:
    """Round numbers within [left, right].

    >>> ticks(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    raw = (right - left) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(left / step - 1e-9)
    return [(first + place) * step for place in range(math.floor(right / step + 1e-9) - first + 1)]


def _x(value: float, left: float, right: float) -> float:
    return round(_LEFT + (value - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT), 1)


def _bars(counts: Sequence[int], left: float, right: float, low: float | None, high: float | None) -> str:
    most = max(counts)
    width = (right - left) / len(counts)
    bars = []
    for place, count in enumerate(counts):
        if not count:
            continue
        start, end = left + place * width, left + (place + 1) * width
        middle = (start + end) / 2
        inside = (low is None or middle >= low) and (high is None or middle <= high)
        height = (_HEIGHT - _TOP - _BOTTOM) * count / most
        x = _x(start, left, right)
        bars.append(
            f'<rect class="{"in" if inside else "out"}" x="{x}" y="{_HEIGHT - _BOTTOM - height:.1f}" '
            f'width="{_x(end, left, right) - x - 0.8:.1f}" height="{height:.1f}">'
            f"<title>{number(start)} to {number(end)}: {count}</title></rect>"
        )
    return "".join(bars)


def _axis(left: float, right: float, most: int) -> str:
    floor = _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>']
    parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{most}</text>')
    parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>')
    for value in ticks(left, right):
        x = _x(value, left, right)
        parts.append(
            f'<text class="tick" x="{x}" y="{floor + 16}" text-anchor="middle">{number(value)}</text>'
        )
    return "".join(parts)


def _threshold(bound: float, left: float, right: float) -> str:
    x = _x(bound, left, right)
    anchor = "end" if x > _WIDTH - 60 else "start"
    shift = -4 if anchor == "end" else 4
    return (
        f'<line class="bound" x1="{x}" x2="{x}" y1="{_TOP - 8}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="bound" x="{x + shift}" y="{_TOP}" text-anchor="{anchor}">{number(bound)}</text>'
    )
