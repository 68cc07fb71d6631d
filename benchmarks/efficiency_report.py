"""The tables of docs/efficiency.md and its plot, from the curves of benchmarks/efficiency.py.

python benchmarks/efficiency_report.py benchmarks/results/efficiency.json docs/efficiency.svg
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

REWARD = "demo_aesthetic"
ALIGNMENT = "demo_alignment_held_out"
SHAPE = "demo_judge_shape"
LEVELS = (5.0, 6.0, 7.0, 8.0, 9.0)
#: The reward at which the methods are compared.
LEVEL = 8.0
#: Fall of the held-out alignment at which they are compared.
FALL = 0.02

Point = dict[str, float]
Run = dict[str, Any]
Setting = tuple[str, float, float]


def settings_of(runs: Iterable[Run]) -> dict[Setting, list[Run]]:
    """Runs by (method, learning rate, noise level).

    A run that the clock cut below half of its queries is left out.
    """
    grouped: dict[Setting, list[Run]] = {}
    for run in runs:
        if run["whole"] or run["curve"][-1]["queries"] >= run["queries"] / 2:
            grouped.setdefault(setting_of(run), []).append(run)
    return grouped


def setting_of(run: Run) -> Setting:
    """Method, learning rate, and what else tells settings of the method apart."""
    own = {"policy_gradient": "noise_level", "nft": "beta"}
    return run["method"], run["lr"], run[own[run["method"]]] if run["method"] in own else 0.0


def name_of(setting: Setting) -> str:
    """How a setting is called."""
    method, lr, more = setting
    names = {"policy_gradient": f", noise {more:g}", "nft": f", beta {more:g}"}
    titles = {
        "vader": "VADER",
        "policy_gradient": "policy gradient",
        "nft": "NFT",
        "supervised": "fine-tuning",
    }
    return f"{titles[method]}, lr {lr:g}{names.get(method, '')}"


def crossing(curve: Sequence[Point], reached: Callable[[Point], float]) -> Point | None:
    """The first point, interpolated, at which ``reached`` rises to 0; ``None`` where it never does."""
    for before, after in itertools.pairwise(curve):
        low, high = reached(before), reached(after)
        if low < 0 <= high:
            share = -low / (high - low)
            return {key: before[key] + share * (after[key] - before[key]) for key in before}
    return None


def at_reward(run: Run, level: float) -> Point | None:
    """Where the reward first reaches ``level``."""
    return crossing(run["curve"], lambda point: point[REWARD] - level)


def at_fall(run: Run, fall: float) -> Point | None:
    """Where the held-out alignment has first fallen by ``fall``."""
    start = run["curve"][0][ALIGNMENT]
    return crossing(run["curve"], lambda point: start - fall - point[ALIGNMENT])


def reached(runs: Sequence[Run], find: Callable[[Run], Point | None]) -> list[Point]:
    """The points found, of the runs that have one."""
    return [point for point in map(find, runs) if point is not None]


def spread(values: Sequence[float], seeds: int, digits: int = 0) -> str:
    """Median and range; and how many seeds it is of, where not all came so far."""
    low, middle, high = min(values), statistics.median(values), max(values)
    text = f"{middle:.{digits}f}"
    if len(values) > 1:
        text += f" ({low:.{digits}f} to {high:.{digits}f})"
    return text if len(values) == seeds else f"{text}, {len(values)} of {seeds} seeds"


def queries_cell(runs: Sequence[Run], level: float) -> str:
    """Queries to a reward."""
    points = reached(runs, lambda run: at_reward(run, level))
    return spread([point["queries"] for point in points], len(runs)) if points else "not reached"


def median_queries(runs: Sequence[Run], level: float) -> float:
    """Median queries to a reward, a run that did not come so far last; infinite where the median run did not.

    A run that the clock cut before it came so far says nothing.
    """
    found = [(at_reward(run, level), run["whole"]) for run in runs]
    values = [point["queries"] if point else math.inf for point, whole in found if point or whole]
    return statistics.median(values) if values else math.inf


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(tree: dict[str, Any]) -> str:
    """Every table of the page."""
    # Fine-tuning asks all its queries before the first update: no reward is reached after so many of them.
    grouped = {key: runs for key, runs in settings_of(tree["runs"]).items() if key[0] != "supervised"}
    vader = {key: runs for key, runs in grouped.items() if key[0] == "vader"}
    policy = {key: runs for key, runs in grouped.items() if key[0] in ("policy_gradient", "nft")}
    parts = [
        "Reward queries to reach a reward, median over seeds (range):",
        table(
            ["setting", "seeds", *(f"reward {level:g}" for level in LEVELS)],
            [
                [name_of(key), str(len(runs)), *(queries_cell(runs, level) for level in LEVELS)]
                for key, runs in grouped.items()
            ],
        ),
        f"Queries of the policy gradient per query of VADER at reward {LEVEL:g} (medians):",
        table(
            ["", *(name_of(key) for key in policy)],
            [
                [name_of(key), *(_factor(runs, other) for other in policy.values())]
                for key, runs in vader.items()
            ],
        ),
        f"Content and seconds at reward {LEVEL:g}, and the reward at an equal loss of alignment:",
        table(
            [
                "setting",
                f"alignment at {LEVEL:g}",
                f"shapes right at {LEVEL:g}",
                f"seconds to {LEVEL:g}, H200",
                f"seconds to {LEVEL:g}, CPU",
                f"reward when alignment has fallen by {FALL:g}",
                "after queries",
            ],
            [[name_of(key), *_costs(key, runs, tree["timings"])] for key, runs in grouped.items()],
        ),
    ]
    return "\n\n".join(parts)


def _factor(vader: Sequence[Run], policy: Sequence[Run]) -> str:
    factor = median_queries(policy, LEVEL) / median_queries(vader, LEVEL)
    return f"{factor:.0f}" if math.isfinite(factor) else "not reached"


def _costs(setting: Setting, runs: Sequence[Run], timings: dict[str, Any]) -> list[str]:
    cells = ["not reached"] + ["-"] * 3
    points = reached(runs, lambda run: at_reward(run, LEVEL))
    if points:
        middle = statistics.median(point["queries"] for point in points)
        cells = [
            spread([point[ALIGNMENT] for point in points], len(runs), 3),
            f"{statistics.median(point[SHAPE] for point in points):.0%}",
            *(_seconds(timings[kind].get(setting[0]), middle) for kind in ("cuda", "cpu")),
        ]
    fallen = reached(runs, lambda run: at_fall(run, FALL))
    if not fallen:
        return [*cells, "not fallen so far", "-"]
    return [
        *cells,
        spread([point[REWARD] for point in fallen], len(runs), 2),
        spread([point["queries"] for point in fallen], len(runs)),
    ]


def _seconds(cost: dict[str, Any] | None, queries: float) -> str:
    """Of so many queries; a dash where no update was timed alone."""
    return "-" if cost is None else f"{queries * cost['seconds_a_query']:.1f}"


# -- the plot ----------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 980, 485
LEFT, GAP, TOP, BOTTOM = 56, 66, 44, 143
PANEL = (WIDTH - LEFT - GAP - 18) / 2
COLOURS = {
    ("vader", 0.0): ("#9ecae1", "#5aa0cf", "#2171b5", "#08306b"),
    ("policy_gradient", 0.7): ("#fdbe85", "#f0803c", "#b8470a", "#6e2a04"),
    ("policy_gradient", 0.3): ("#bdbdbd", "#636363"),
    ("nft", 1.0): ("#c994c7", "#980043"),
    ("nft", 0.25): ("#bcbddc", "#54278f"),
}
#: Lines of the methods that are no reward gradient, for readers who see no colours.
DASHES = {"policy_gradient": "6 3", "nft": "2 3"}


def at_queries(run: Run, key: str) -> dict[float, float]:
    """A run's value by its reward queries."""
    return {point["queries"]: point[key] for point in run["curve"]}


def spread_of(runs: Sequence[Run], key: str) -> list[tuple[float, float, float, float]]:
    """(queries, lowest, median, highest) over seeds, where half of them were measured at least."""
    every = [at_queries(run, key) for run in runs]
    found = []
    for queries in sorted({queries for one in every for queries in one}):
        values = [one[queries] for one in every if queries in one]
        if 2 * len(values) >= len(runs):
            found.append((queries, min(values), statistics.median(values), max(values)))
    return found


class Axes:
    """One panel: data to pixels, its frame and its ticks.

    Args:
        left: Of the panel, in pixels.
        x: Range of the data; logarithmic where ``log``.
        y: Range of the data.
        log: Whether x is logarithmic.
    """

    def __init__(self, left: float, x: tuple[float, float], y: tuple[float, float], *, log: bool) -> None:
        self.left, self.x, self.y, self.log = left, x, y, log

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point in pixels, held inside the panel."""
        measure: Callable[[float], float] = math.log10 if self.log else float
        low, high = measure(self.x[0]), measure(self.x[1])
        across = (measure(max(x, self.x[0])) - low) / (high - low)
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        height = HEIGHT - TOP - BOTTOM
        return self.left + PANEL * min(max(across, 0), 1), TOP + height * (1 - min(max(up, 0), 1))

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Points in pixels, as SVG writes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in points))

    def line(self, points: Iterable[tuple[float, float]], colour: str, dash: str) -> str:
        """A setting's median."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        path = self.path(points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashed}/>'

    def band(
        self, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]], colour: str
    ) -> str:
        """The range over a setting's seeds."""
        return f'<polygon points="{self.path([*low, *reversed(high)])}" fill="{colour}" opacity="0.22"/>'

    def frame(self, title: str, below: str, xs: Sequence[float], ys: Sequence[float]) -> list[str]:
        """Grid, ticks and titles."""
        bottom = HEIGHT - BOTTOM
        parts = [
            f'<text x="{self.left:.1f}" y="{TOP - 16}" font-weight="600">{title}</text>',
            f'<text x="{self.left + PANEL / 2:.1f}" y="{bottom + 36}" text-anchor="middle">{below}</text>',
        ]
        for x in xs:
            across = self.place(x, self.y[0])[0]
            parts.append(
                f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{bottom}" stroke="#e4e4e4"/>'
            )
            parts.append(f'<text x="{across:.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>')
        for y in ys:
            up = self.place(self.x[0], y)[1]
            parts.append(
                f'<line x1="{self.left:.1f}" x2="{self.left + PANEL:.1f}" y1="{up:.1f}" y2="{up:.1f}" '
                'stroke="#e4e4e4"/>'
            )
            parts.append(f'<text x="{self.left - 7:.1f}" y="{up + 4:.1f}" text-anchor="end">{y:g}</text>')
        return parts


def plot(tree: dict[str, Any]) -> str:
    """Reward over queries, and alignment over reward: medians over seeds, and the reward's range."""
    grouped = settings_of(tree["runs"])
    queries = Axes(LEFT, (4, 4000), (3.5, 10.5), log=True)
    content = Axes(LEFT + PANEL + GAP, (6.0, 10.5), (0.1, 0.9), log=False)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *queries.frame(
            f"Reward ({REWARD}, 64 held-out clips)",
            "reward queries",
            (4, 10, 30, 100, 300, 1000, 3000),
            (4, 5, 6, 7, 8, 9, 10),
        ),
        *content.frame(
            "Held-out alignment against that reward", "reward", (6, 7, 8, 9, 10), (0.2, 0.4, 0.6, 0.8)
        ),
    ]
    framed = len(parts)  # bands lie behind every line
    used = dict.fromkeys(COLOURS, 0)
    rows = [0, 0]
    for key, runs in grouped.items():
        family = (key[0], key[2])
        if family not in COLOURS:  # fine-tuning asks its queries at once: it has no line over them
            continue
        colour = COLOURS[family][used[family]]
        dash = DASHES.get(key[0], "")
        rewards = [one for one in spread_of(runs, REWARD) if one[0]]
        kept = {one[0]: one[2] for one in spread_of(runs, ALIGNMENT)}
        low, middle, high = ([(one[0], one[place]) for one in rewards] for place in (1, 2, 3))
        parts.insert(framed, queries.band(low, high, colour))
        parts.append(queries.line(middle, colour, dash))
        parts.append(content.line(((reward, kept[at]) for at, reward in middle), colour, dash))
        column = 1 if key[0] == "policy_gradient" else 0
        row = rows[column]
        x, y = LEFT + column * (PANEL + GAP), HEIGHT - BOTTOM + 58 + 15 * row
        parts.append(
            f'<line x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2.4" '
            f'stroke-dasharray="{dash or "none"}"/>'
        )
        parts.append(f'<text x="{x + 30}" y="{y}">{name_of(key)} ({len(runs)} seeds)</text>')
        used[family] += 1
        rows[column] += 1
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", type=Path)
    parser.add_argument("svg", type=Path)
    options = parser.parse_args()
    tree = json.loads(options.curves.read_text())
    options.svg.write_text(plot(tree))
    print(tables(tree))


if __name__ == "__main__":
    main()
