"""The tables of docs/efficiency.md on reward per second, from the curves of benchmarks/reward_per_second.py.

python benchmarks/reward_per_second_report.py docs/efficiency.md
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from page_tables import write_tables

RESULTS = Path(__file__).parent / "results" / "reward_per_second.json"
REWARD = "demo_aesthetic"
ALIGNMENT = "demo_alignment_held_out"
RECIPE = "recipe"
#: The reward that variants are timed to: about all that can be had with the content.
HIGH = 9.0
#: A fall of the held-out alignment beyond this is content lost: such a point counts as not reached.
FALL = 0.02

Run = dict[str, Any]
Point = dict[str, float]


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


def seconds_of(point: Point, cost: dict[str, Any]) -> float:
    """Processor seconds of a run up to a point: updates with their own rollout, and with a kept one."""
    rollout = cost.get("rollout", cost.get("kept"))["processor_seconds"]
    kept = cost.get("kept", cost.get("rollout"))["processor_seconds"]
    rollouts = point["rollouts"]
    return rollouts * rollout + (point["updates"] - rollouts) * kept


def median_updates(runs: Sequence[Run], reward: float) -> float:
    """Updates to ``reward`` with the content kept; infinite where the median run does not come there.

    Of an even number the later of the middle two.
    """
    found = []
    for run in runs:
        point = reached(run, reward)
        found.append(point["updates"] if point and fallen(run, point) <= FALL else math.inf)
    return statistics.median_high(found)


def chosen_rates(runs: Sequence[Run], seeds: Sequence[int]) -> dict[str, float]:
    """For each variant the learning rate that needed the fewest updates to the high reward while tuning."""
    tuned = [run for run in runs if run["seed"] in seeds]
    chosen: dict[str, float] = {}
    for variant in dict.fromkeys(run["variant"] for run in tuned):
        of_rate: dict[float, list[Run]] = {}
        for run in tuned:
            if run["variant"] == variant:
                of_rate.setdefault(run["lr"], []).append(run)
        chosen[variant] = min(sorted(of_rate), key=lambda lr: median_updates(of_rate[lr], HIGH))
    return chosen


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def fall(changes: Sequence[float]) -> str:
    """Median and range of the alignment's change."""
    return f"{statistics.median(changes):+.3f} ({min(changes):+.3f} to {max(changes):+.3f})"


def cells(
    runs: Sequence[Run], cost: dict[str, Any], reward: float, before: float = 0.0
) -> tuple[list[str], float]:
    """Updates, seconds, reward per second and alignment at ``reward``; and the median seconds.

    Args:
        runs: Of one variant and rate.
        cost: Of its updates.
        reward: To which.
        before: Seconds that are spent before the first update.
    """
    pairs = [(run, point) for run in runs if (point := reached(run, reward))]
    pairs = [(run, point) for run, point in pairs if fallen(run, point) <= FALL]
    if not pairs:
        return ["not reached", "-", "-", "-"], math.inf
    seconds = [before + seconds_of(point, cost) for _, point in pairs]
    gained = [
        (reward - run["curve"][0][REWARD]) / spent for (run, _), spent in zip(pairs, seconds, strict=True)
    ]
    part = "" if len(pairs) == len(runs) else f", {len(pairs)} of {len(runs)} seeds"
    return [
        spread([point["updates"] for _, point in pairs], 1) + part,
        spread(seconds, 1),
        spread(gained, 2),
        fall([-fallen(run, point) for run, point in pairs]),
    ], statistics.median(seconds)


def measured(tree: dict[str, Any], variant: str) -> dict[str, Any] | None:
    """What updates of a variant and of the recipe cost, by the latest measurement that has the variant."""
    found = [tree["timings"][name]["variants"] for name in sorted(tree["timings"]) if name.startswith("cpu")]
    return next((costs for costs in reversed(found) if variant in costs), None)


def table(tree: dict[str, Any], reward: float) -> list[str]:
    """Every variant to a reward, at its tuned learning rate and at the lower ones that were run.

    A variant is compared with the recipe as both were timed together; one that was not run, or not timed, has
    no row.
    """
    runs = [run for run in tree["runs"] if run["seed"] in tree["seeds"]]
    rates = chosen_rates(tree["runs"], tree["tuning_seeds"])
    lines = [
        "| variant | lr | s per update | updates | seconds | reward per second | alignment | times as fast |",
        "|---|---|---|---|---|---|---|---|",
    ]
    plain = [run for run in runs if run["variant"] == RECIPE and run["lr"] == rates[RECIPE]]
    for variant in tree["variants"]:
        costs = measured(tree, variant)
        most = rates.get(variant, math.inf)  # one whose rate was not chosen shows each that was run
        tried = {run["lr"] for run in runs if run["variant"] == variant and run["lr"] <= most}
        if costs is None or not tried:
            continue
        cost, (_, recipe_seconds) = costs[variant], cells(plain, costs[RECIPE], reward)
        update = ", then ".join(
            f"{cost[kind]['processor_seconds']:.2f}" for kind in ("rollout", "kept") if kind in cost
        )
        for rate in sorted(tried, reverse=True):
            own = [run for run in runs if run["variant"] == variant and run["lr"] == rate]
            made = max(run.get("bank", 0) for run in own)
            few = "" if len(own) == len(tree["seeds"]) else f" ({len(own)} of {len(tree['seeds'])} seeds run)"
            spent = {"": 0.0}
            if made:
                spent[f", with the making of its {made} clips"] = made * cost["making"]["processor_seconds"]
            for counted, before in spent.items():
                shown, seconds = cells(own, cost, reward, before)
                factor = f"{recipe_seconds / seconds:.1f}" if math.isfinite(seconds) else "-"
                lines.append(
                    "| " + " | ".join([variant + few + counted, f"{rate:g}", update, *shown, factor]) + " |"
                )
    return lines


def main(page: Path) -> None:
    """Write the tables between the page's marks."""
    tree = json.loads(RESULTS.read_text(encoding="utf-8"))
    tables = {
        "per second to 8.5": table(tree, 8.5),
        "per second to 9": table(tree, HIGH),
    }
    write_tables(page, tables)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
