"""Reward per second: the arithmetic of its figures, and that every variant is a run that could be made."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from vader_core.assembly import prepare
from vader_core.config import merged, read_recipe, validated
from vader_core.registry import load_registry

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import reward_per_second as study
import reward_per_second_report as report


def run(variant, lr, seed, rise, fall=0.0, rollouts=1):
    """A run whose reward rises by ``rise`` an update from 4, and whose alignment falls by ``fall``."""
    curve = [
        {
            "updates": done,
            "rollouts": math.ceil(done / rollouts),
            report.REWARD: 4 + rise * done,
            report.ALIGNMENT: 0.8 - fall * done,
        }
        for done in range(13)
    ]
    return {"variant": variant, "lr": lr, "seed": seed, "curve": curve}


def tree():
    runs = [run("recipe", report.RECIPE_RATE, seed, 0.25 + 0.05 * seed) for seed in range(5)]
    runs += [run("recipe", lr, 100, rise) for lr, rise in ((report.RECIPE_RATE, 0.3), (8e-4, 0.2))]
    runs += [run("other", lr, seed, 1.0, rollouts=2) for lr in (4e-4, 8e-4) for seed in (*range(5), 100)]
    runs += [run("other", 1.6e-3, 100, 3.0, fall=0.03)]
    cost = {"rollout": {"processor_seconds": 2.0}}
    kept = {"rollout": {"processor_seconds": 1.0}, "kept": {"processor_seconds": 0.5}}
    return {
        "variants": {"recipe": {}, "other": {}},
        "runs": runs,
        "seeds": [0, 1, 2, 3, 4],
        "tuning_seeds": [100],
        "levels": {level: report.level_of(runs, level, range(5)) for level in report.LEVELS},
        "timings": {"cpu": {"variants": {"recipe": cost, "other": kept}}},
    }


def test_the_level_is_nine_tenths_of_the_recipes_mean_gain():
    assert report.level_of(tree()["runs"], report.LEVELS[0], range(5)) == pytest.approx(4 + 0.9 * 12 * 0.35)


def test_seconds_tell_kept_rollouts_from_fresh_ones():
    point = report.reached(run("other", 4e-4, 0, 1.0, rollouts=2), 7.5)
    assert (point["updates"], point["rollouts"]) == (3.5, 2.0)
    cost = tree()["timings"]["cpu"]["variants"]["other"]
    assert report.seconds_of(point, cost) == pytest.approx(2 * 1.0 + 1.5 * 0.5)


def test_a_rate_that_loses_the_content_is_not_chosen():
    rates = report.chosen_rates(tree()["runs"], [100])
    assert rates["other"] == dict.fromkeys(report.LEVELS, 4e-4)
    assert rates["recipe"][report.LEVELS[0]] == report.RECIPE_RATE


def test_a_table_has_a_row_a_variant_and_the_factor():
    rows = report.table(tree(), report.LEVELS[0], tuned=True)[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == ["recipe", "other"]
    recipe, other = (float(row.split(" | ")[4].split()[0]) for row in rows)
    assert rows[0].endswith("| 1.0 |")
    assert rows[1].endswith(f"| {recipe / other:.1f} |")
    assert "3 of 5 seeds" in rows[0]


@pytest.mark.parametrize("variant", study.VARIANTS)
def test_every_variant_can_be_trained(variant):
    registry = load_registry()
    tree = merged(read_recipe(registry, "demo"), {"trainer": {"device": "cpu"}}, study.VARIANTS[variant])
    assert prepare(validated(tree), registry).config.rewards[0].name == report.REWARD
