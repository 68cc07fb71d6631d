"""Table 1 of the paper on the demo: what each method has at equal queries and at equal seconds.

    python benchmarks/efficiency.py sweep --out runs/efficiency --jobs 14
    python benchmarks/efficiency.py collect runs/efficiency benchmarks/results/efficiency.json
    python benchmarks/methods_table.py timing
    python benchmarks/methods_table.py table docs/efficiency.md

The curves are those of ``benchmarks/efficiency.py``. Of a method's settings the one counts that has the
highest median reward at the budget with the held-out alignment no more than 0.02 below the base model's, or,
where none has, the one that lost least. Seconds are processor seconds of an update on one thread of a CPU,
measured alone, times the updates; what fine-tuning spends on choosing its clips is among them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from efficiency import METHODS, Job, _updates, assemble
from efficiency_report import ALIGNMENT, FALL, REWARD, Point, Run, setting_of
from page_tables import write_tables

RESULTS = Path(__file__).parent / "results"
#: What each method may spend.
QUERIES, SECONDS = 240, 120.0
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
    """The run's curve with processor seconds in place of its own clock's."""
    points = []
    for point in run["curve"]:
        done = point.get("updates", point["queries"] / run["batch_size"] if run["batch_size"] else 0)
        begun = cost.get("before", 0.0) if done else 0.0
        points.append({**point, "spent": begun + done * cost["update"]})
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

    best = max(found, key=worth)
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
        if not own:
            continue

        def curve_of(run: Run) -> list[Point]:
            return timed(run, costs[run["method"]])

        setting, points, seeds = chosen(own, curve_of, name, budget)
        cells = [cell([point[column] for point in points], 2) for column in COLUMNS[:2]]
        shape = statistics.median(point["demo_judge_shape"] for point in points)
        lines.append(
            f"| {title} | {setting[1]:g} | {seeds} | {' | '.join(cells)} | "
            f"{cell([point[ALIGNMENT] for point in points], 3)} | {shape:.0%} |"
        )
    return lines


def timing(options: argparse.Namespace) -> None:
    """Processor seconds of an update of each method, on one thread."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for method in options.methods:
        job = Job(method, 1e-5, 0, QUERIES, 1)
        assembly, _ = assemble(job, 8, "cpu")
        updates, taken = _updates(assembly, job), []
        for _ in range(options.repeats + 1):
            begun = time.process_time()
            next(updates)
            taken.append(time.process_time() - begun)
        # the first chooses the clips too, where there are any
        found[method] = {"update": round(statistics.median(taken[1:]), 3)}
        if method == "supervised":
            found[method]["before"] = round(taken[0] - found[method]["update"], 3)
    kept = json.loads(options.out.read_text()) if options.out.is_file() else {}
    options.out.write_text(json.dumps(kept | found, indent=1) + "\n")
    print(json.dumps(found))


def table(options: argparse.Namespace) -> None:
    """Write both tables between the page's marks."""
    runs = json.loads((RESULTS / "efficiency.json").read_text(encoding="utf-8"))["runs"]
    costs = json.loads(options.costs.read_text())
    write_tables(
        options.page,
        {
            "methods at equal queries": rows(runs, costs, "queries", QUERIES),
            "methods at equal seconds": rows(runs, costs, "spent", SECONDS),
        },
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("timing", help=timing.__doc__)
    command.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    command.add_argument("--repeats", type=int, default=2)
    command.add_argument("--out", type=Path, default=RESULTS / "methods_costs.json")
    command.set_defaults(call=timing)
    command = commands.add_parser("table", help=table.__doc__)
    command.add_argument("page", type=Path)
    command.add_argument("--costs", type=Path, default=RESULTS / "methods_costs.json")
    command.set_defaults(call=table)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
