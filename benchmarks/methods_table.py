"""Table 1 of the paper on the demo: what each method has at equal queries and at equal seconds.

    python benchmarks/efficiency.py sweep --out runs/efficiency --jobs 14
    python benchmarks/efficiency.py collect runs/efficiency benchmarks/results/efficiency.json
    python benchmarks/methods_table.py docs/efficiency.md

The curves are those of ``benchmarks/efficiency.py``. Of a method's settings the one counts that has the
highest median reward at the budget with the held-out alignment no more than 0.02 below the base model's, or,
where none has, the one that lost least; settings with fewer seeds than another's do not count. Seconds are
those of an update on two threads of a CPU, measured alone (``efficiency.py timing``), times the updates; what
fine-tuning spends on choosing its clips is among them. A method without curves, or for the seconds without a
timing, has no row.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from efficiency_report import ALIGNMENT, FALL, REWARD, Point, Run, setting_of
from page_tables import write_tables

RESULTS = Path(__file__).parent / "results"
#: What each method may spend.
QUERIES, SECONDS = 240, 60.0
NAMES = {
    "supervised": "fine-tuning on the best clips",
    "nft": "NFT",
    "policy_gradient": "policy gradient",
    "vader": "reward gradient",
}
COLUMNS = (REWARD, "demo_aesthetic_held_out", ALIGNMENT, "demo_judge_shape")


def at(curve: Sequence[Point], name: str, budget: float) -> Point | None:
    """The curve where ``name`` has come to ``budget``, interpolated; its end where it never does.

    ``None`` where there is nothing but the base model.
    """
    before = curve[0]
    for after in curve[1:]:
        if after[name] > budget:
            share = (budget - before[name]) / (after[name] - before[name])
            return {key: before[key] + share * (after[key] - before[key]) for key in COLUMNS}
        before = after
    return None if before is curve[0] else before


def timed(run: Run, cost: dict[str, float]) -> list[Point]:
    """The run's curve with the seconds of updates timed alone."""
    points = []
    for point in run["curve"]:
        done = point.get("updates", point["queries"] / run["batch_size"] if run["batch_size"] else 0)
        begun = cost.get("seconds_before", 0.0) if done else 0.0
        points.append({**point, "spent": begun + done * cost["seconds_an_update"]})
    return points


def chosen(runs: Iterable[Run], curves: Any, name: str, budget: float) -> tuple[Any, list[Point], int]:
    """Of a method's settings the best at the budget: the setting, its seeds' points, and its seeds."""
    found: dict[Any, list[tuple[Point, Point]]] = {}
    for run in runs:
        curve = curves(run)
        point = at(curve, name, budget)
        # a run that the clock cut before the budget says nothing about it
        if point is not None and (run["whole"] or curve[-1][name] >= budget):
            found.setdefault(setting_of(run), []).append((point, curve[0]))

    def worth(setting: Any) -> tuple[bool, float]:
        rows = found[setting]
        fall = statistics.median(start[ALIGNMENT] - point[ALIGNMENT] for point, start in rows)
        kept = fall <= FALL
        return kept, statistics.median(point[REWARD] for point, _ in rows) if kept else -fall

    most = max(len(rows) for rows in found.values())
    best = max((setting for setting, rows in found.items() if len(rows) == most), key=worth)
    return best, [point for point, _ in found[best]], len(found[best])


def cell(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def rows(runs: Sequence[Run], costs: dict[str, dict[str, float]], name: str, budget: float) -> list[str]:
    """One budget's table: the base model, and each method that was run."""
    lines = [
        "| method | rate | seeds | reward | by another net | alignment | shapes right |",
        "|---|---|---|---|---|---|---|",
    ]
    base = runs[0]["curve"][0]
    lines.append(
        f"| base model | - | - | {base[REWARD]:.2f} | {base[COLUMNS[1]]:.2f} | {base[ALIGNMENT]:.3f} | "
        f"{base['demo_judge_shape']:.0%} |"
    )
    for method, title in NAMES.items():
        own = [run for run in runs if run["method"] == method]
        if not own or (name == "spent" and method not in costs):
            continue

        def curve_of(run: Run) -> list[Point]:
            return timed(run, costs.get(run["method"], {"seconds_an_update": 0.0}))

        setting, points, seeds = chosen(own, curve_of, name, budget)
        cells = [cell([point[column] for point in points], 2) for column in COLUMNS[:2]]
        shape = statistics.median(point["demo_judge_shape"] for point in points)
        lines.append(
            f"| {title} | {setting[1]:g} | {seeds} | {' | '.join(cells)} | "
            f"{cell([point[ALIGNMENT] for point in points], 3)} | {shape:.0%} |"
        )
    return lines


def main(page: Path) -> None:
    """Write both tables between the page's marks."""
    tree = json.loads((RESULTS / "efficiency.json").read_text(encoding="utf-8"))
    tables = {
        "methods at equal queries": rows(tree["runs"], tree["timings"]["cpu"], "queries", QUERIES),
        "methods at equal seconds": rows(tree["runs"], tree["timings"]["cpu"], "spent", SECONDS),
    }
    write_tables(page, tables)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
