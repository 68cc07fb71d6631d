"""The tables of docs/efficiency.md on reward per second, from the curves of benchmarks/reward_per_second.py.

python benchmarks/reward_per_second_report.py docs/efficiency.md
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "reward_per_second.json"
REWARD = "demo_aesthetic"
ALIGNMENT = "demo_alignment_held_out"
RECIPE = "recipe"
#: The recipe's learning rate and number of updates.
RECIPE_RATE = 4e-4
RECIPE_UPDATES = 12
#: The gains that are timed: most of what the recipe gains, and about all that can be had with the content.
LEVELS = ("90 % of the recipe's gain", "reward 9")
#: A fall of the held-out alignment beyond this is content lost: such a point counts as not reached.
FALL = 0.02

Run = dict[str, Any]
Point = dict[str, float]


def level_of(runs: Iterable[Run], level: str, seeds: Sequence[int]) -> float:
    """The reward that a level stands for."""
    if level == "reward 9":
        return 9.0
    recipes = [
        {point["updates"]: point[REWARD] for point in run["curve"]}
        for run in runs
        if run["variant"] == RECIPE and run["lr"] == RECIPE_RATE and run["seed"] in seeds
    ]
    return statistics.mean(rewards[0] + 0.9 * (rewards[RECIPE_UPDATES] - rewards[0]) for rewards in recipes)


def reached(run: Run, reward: float) -> Point | None:
    """The first point of the curve, interpolated, at ``reward``; ``None`` where it never comes so far."""
    for before, after in itertools.pairwise(run["curve"]):
        if before[REWARD] < reward <= after[REWARD]:
            share = (reward - before[REWARD]) / (after[REWARD] - before[REWARD])
            return {key: before[key] + share * (after[key] - before[key]) for key in before}
    return None


def fallen(run: Run, point: Point) -> float:
    """How far the held-out alignment is below the base model's."""
    return run["curve"][0][ALIGNMENT] - point[ALIGNMENT]


def median_updates(runs: Sequence[Run], reward: float) -> float:
    """Updates to ``reward`` with the content kept; infinite where the median run does not come there."""
    found = []
    for run in runs:
        point = reached(run, reward)
        found.append(point["updates"] if point and fallen(run, point) <= FALL else math.inf)
    return statistics.median_high(found) if len(found) % 2 == 0 else statistics.median(found)


def chosen_rates(runs: Sequence[Run], seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """For each variant and level the learning rate that needed the fewest updates with the tuning's seeds."""
    tuned = [run for run in runs if run["seed"] in seeds]
    rewards = {level: level_of(tuned, level, seeds) for level in LEVELS}
    chosen: dict[str, dict[str, float]] = {}
    for variant in dict.fromkeys(run["variant"] for run in tuned):
        of_rate: dict[float, list[Run]] = {}
        for run in tuned:
            if run["variant"] == variant:
                of_rate.setdefault(run["lr"], []).append(run)
        chosen[variant] = {
            level: min(sorted(of_rate), key=lambda lr: median_updates(of_rate[lr], rewards[level]))
            for level in LEVELS
        }
    return chosen


def _row(
    runs: Sequence[Run], seconds: float, level: float, recipe_seconds: float | None
) -> tuple[list[str], float | None]:
    """Cells of one variant at one rate; and the median seconds, where every seed came there."""
    points = [(run, reached(run, level)) for run in runs]
    kept = [(run, point) for run, point in points if point and fallen(run, point) <= FALL]
    if not kept:
        return ["not reached", "-", "-", "-", "-"], None
    taken = sorted(point["updates"] * seconds for _, point in kept)
    gained = [(level - run["curve"][0][REWARD]) / (point["updates"] * seconds) for run, point in kept]
    middle = statistics.median(taken)
    lost = statistics.median(fallen(run, point) for run, point in kept)
    count = "" if len(kept) == len(runs) else f", {len(kept)} of {len(runs)} seeds"
    ratio = "-" if recipe_seconds is None else f"{recipe_seconds / middle:.1f}"
    return [
        f"{statistics.median(point['updates'] for _, point in kept):.1f}",
        f"{middle:.1f} ({taken[0]:.1f} to {taken[-1]:.1f}){count}",
        f"{statistics.median(gained):.2f}",
        ratio,
        f"{-lost:+.3f}",
    ], middle


def table(tree: dict[str, Any], level: str, *, tuned: bool) -> list[str]:
    """One level: every variant at its tuned learning rate, or at the recipe's."""
    costs = tree["timings"]["cpu"]["variants"]
    runs = [run for run in tree["runs"] if run["seed"] in tree["seeds"]]
    rates = chosen_rates(tree["runs"], tree["tuning_seeds"])
    lines = [
        "| variant | lr | s an update | updates | seconds (range) | reward a second "
        "| recipe's seconds over these | alignment |",
        "|---|---|---|---|---|---|---|---|",
    ]
    recipe_seconds = None
    for variant in tree["variants"]:
        rate = rates[variant][level] if tuned else RECIPE_RATE
        own = [run for run in runs if run["variant"] == variant and run["lr"] == rate]
        seconds = costs[variant]["processor_seconds"]
        cells, middle = _row(own, seconds, tree["levels"][level], recipe_seconds)
        if variant == RECIPE:
            recipe_seconds, cells[3] = middle, "1"
        lines.append("| " + " | ".join([variant, f"{rate:g}", f"{seconds:.2f}", *cells]) + " |")
    return lines


def main(page: Path) -> None:
    """Write the tables between the page's marks."""
    tree = json.loads(RESULTS.read_text(encoding="utf-8"))
    tables = {
        f"per second, {'tuned' if tuned else 'untuned'}, {level}": table(tree, level, tuned=tuned)
        for level in LEVELS
        for tuned in (True, False)
    }
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not begin or not end:
            raise SystemExit(f"{page}: no marks for the table {name!r}")
        text = "\n".join([before + begin, *lines, end + after])
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
