"""Reward per second: the arithmetic of its figures, and that every variant is a run that could be made."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from vader_core.api.configure import complete
from vader_core.assembly.prepare import prepare
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.run.layers import merged, read_recipe

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
    runs = [run("recipe", lr, seed, 0.45) for lr in (8e-4, 1.6e-3) for seed in (*range(5), 100)]
    runs += [run("other", lr, seed, 1.0, rollouts=2) for lr in (8e-4,) for seed in (*range(5), 100)]
    runs += [run("other", 1.6e-3, 100, 3.0, fall=0.03)]
    cost = {"rollout": {"processor_seconds": 2.0}}
    kept = {"rollout": {"processor_seconds": 1.0}, "kept": {"processor_seconds": 0.5}}
    return {
        "variants": {"recipe": {}, "other": {}},
        "runs": runs,
        "seeds": [0, 1, 2, 3, 4],
        "tuning_seeds": [100],
        "timings": {"cpu": {"variants": {"recipe": cost, "other": kept}}},
    }


def test_seconds_tell_kept_rollouts_from_fresh_ones():
    point = report.reached(run("other", 4e-4, 0, 1.0, rollouts=2), 7.5)
    assert (point["updates"], point["rollouts"]) == (3.5, 2.0)
    cost = tree()["timings"]["cpu"]["variants"]["other"]
    assert report.seconds_of(point, cost) == pytest.approx(2 * 1.0 + 1.5 * 0.5)


def test_a_rate_that_loses_the_content_is_not_chosen():
    assert report.chosen_rates(tree()["runs"], [100]) == {"recipe": 8e-4, "other": 8e-4}


def test_a_table_has_a_row_a_variant_and_the_factor():
    rows = report.table(tree(), report.HIGH)[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == ["recipe", "other"]
    found = [float(row.split(" | ")[4].split()[0]) for row in rows]
    assert found == pytest.approx((2 * 5 / 0.45, 4.0), abs=0.3)
    assert rows[0].endswith("| 1.0 |")
    assert float(rows[1].split(" | ")[-1].strip(" |")) == pytest.approx(found[0] / found[1], abs=0.1)
    assert not any("of 5 seeds" in row for row in rows)


def test_a_bank_has_a_row_with_its_making():
    given = tree()
    for one in given["runs"]:
        if one["variant"] == "other":
            one["bank"] = 4
            for point in one["curve"]:
                point["rollouts"] = 0
    given["timings"]["cpu"]["variants"]["other"] = {
        "kept": {"processor_seconds": 0.5},
        "making": {"processor_seconds": 2.0},
    }
    rows = report.table(given, report.HIGH)[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]] == [
        "other",
        "other, with the making of its 4 clips",
    ]
    seconds = [float(row.split(" | ")[4].split()[0]) for row in rows[1:]]
    assert seconds[1] - seconds[0] == pytest.approx(8.0, abs=0.1)


def test_a_later_measurement_is_compared_with_the_recipe_of_the_same_one():
    given = tree()
    given["timings"]["cpu 2"] = {
        "variants": {
            "recipe": {"rollout": {"processor_seconds": 3.0}},
            "other": {"kept": {"processor_seconds": 1.0}},
        }
    }
    given["variants"]["third"] = {}  # that was never run has no row
    rows = report.table(given, report.HIGH)[2:]
    seconds = [float(row.split(" | ")[4].split()[0]) for row in rows]
    factors = [float(row.split(" | ")[-1].strip(" |")) for row in rows]
    assert seconds == pytest.approx([3.0 * 5 / 0.45, 5.0], abs=0.1)
    assert factors == pytest.approx([1.0, seconds[0] / seconds[1]], abs=0.1)


@pytest.mark.parametrize("variant", study.VARIANTS)
def test_every_variant_can_be_trained(variant):
    registry = load_registry()
    tree = merged(read_recipe(registry, "demo"), {"trainer": {"device": "cpu"}}, study.VARIANTS[variant])
    config = complete(validated(tree), registry)
    assembly = prepare(config, registry)
    assert config.reward[0].name == report.REWARD
    assert assembly.model.num_steps == (int(variant[0]) if variant[1:].startswith(" steps") else 6)
    assert config.trainer.batch_size == (4 if variant in ("recipe", "2 steps", "low variance 2") else 1)
    assert assembly.objective.terms[0].objective.config.low_variance == 2 * (variant == "low variance 2")
    weights = {item.name: item.weight for item in config.reward}
    caption = {"demo_alignment": float(variant.split()[-1])} if ", caption " in variant else {}
    assert weights == {report.REWARD: 1.0, **caption}


@pytest.mark.soak
def test_an_update_of_a_variant_trains_and_the_judge_sees_it():
    low = study.assemble("low variance 2", 0, 2, "cpu", lr=1e-2)
    judge = study._judge(low)
    assert judge.model.backbone is low.backbone
    assert judge.model.num_steps == 6
    before = study._evaluate(judge, 2)
    updates = study._updates(low)
    assert [next(updates) for _ in range(2)] == [True, True]
    after = study._evaluate(judge, 2)
    assert after[study.REWARD] > before[study.REWARD]
