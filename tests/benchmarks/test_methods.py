"""The studies of the methods: what counts as content kept, and that every run could be made."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from vader_core.assembly.prepare import prepare
from vader_core.registry import load_registry
from vader_core.reward import RewardOutput
from vader_core.run.config import validated
from vader_core.run.layers import merged, read_recipe

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import demo_student
import efficiency
import methods_table
import nft_settings

from vader_core.api.configure import complete


def points(*rows):
    return [
        {"updates": i, "queries": 16 * i, nft_settings.REWARD: size, nft_settings.ALIGNMENT: alignment}
        for i, (size, alignment) in enumerate(rows)
    ]


def test_what_comes_back_after_the_content_was_lost_does_not_count():
    curve = points((-1.5, 0.82), (-1.3, 0.81), (-1.0, 0.79), (-0.9, 0.82))
    assert nft_settings.kept(curve) == curve[1]
    assert nft_settings.kept(curve[:1]) == curve[0]


def test_the_table_of_settings(tmp_path, capsys):
    for seed, last in ((0, -0.9), (1, -1.2)):
        rows = [
            point | {f"plain_{name}": point[name] for name in (nft_settings.REWARD, nft_settings.ALIGNMENT)}
            for point in points((-1.5, 0.82), (last, 0.815))
        ]
        text = json.dumps({"setting": "lr 1e-3", "seed": seed, "curve": rows})
        (tmp_path / f"run-{seed}.json").write_text(text)
    nft_settings.table(type("Options", (), {"source": tmp_path}))
    assert "| lr 1e-3 | 2 | 30% (20% to 40%) | 16 | -0.005 | 30% (20% to 40%) |" in capsys.readouterr().out


@pytest.mark.parametrize("setting", nft_settings.SETTINGS)
def test_every_setting_can_be_trained(setting):
    own, registry = nft_settings.SETTINGS[setting]["tree"], load_registry()
    tree = merged(read_recipe(registry, "demo_nft"), {"trainer": {"device": "cpu"}}, own)
    assembly = prepare(complete(validated(tree), registry), registry)
    assert assembly.config.trainer.lr == own["trainer"]["lr"]
    for name, value in own["objective"]["nft"].items():
        assert getattr(assembly.objective.terms[0].objective.config, name) == value
    weights = {item.name: item.weight for item in assembly.config.reward}
    asked = re.search(r"(?:alignment|floor) (\d+)", setting)
    assert weights.get("demo_alignment", 0) == (float(asked[1]) if asked else 0)
    at = re.search(r"floor \d+(?: at (0\.\d+))?", setting)
    floor = None if at is None else float(at[1] or nft_settings.FLOOR)
    assert nft_settings.SETTINGS[setting]["floor"] == floor


@pytest.mark.parametrize("floor", [nft_settings.FLOOR, 0.7])
def test_enough_of_the_caption_is_enough(floor):
    class Cosines:
        def __call__(self, video, prompts, rng):
            return RewardOutput(torch.tensor([0.5, floor, 0.9]), torch.zeros(3))

    found = nft_settings.Enough(Cosines(), floor)(torch.zeros(3, 1, 3, 4, 4), [], None)
    assert found.score.tolist() == pytest.approx([0.5, floor, 0.9])
    assert found.loss.tolist() == pytest.approx([floor - 0.5, 0, 0])


def test_a_sweep_has_every_method_and_a_file_for_every_run():
    jobs = [efficiency.job_of(setting, seed) for setting in efficiency.SWEEP for seed in range(2)]
    assert len({job.name for job in jobs}) == len(jobs)
    assert {job.method for job in jobs} == set(efficiency.METHODS)
    (tuned, *_) = [job for job in jobs if job.method == "supervised"]
    assert (tuned.updates, tuned.batch_size, tuned.queries) == (efficiency.TUNING_UPDATES, 0, 240)
    (ours, *_) = [job for job in jobs if job.method == "nft"]
    assert (ours.updates, ours.batch_size) == (ours.queries // 32, 32)


def test_fine_tuning_learns_from_the_clips_that_score_best():
    job = efficiency.Job("supervised", 1e-3, 0, 30, 1)
    assembly, _ = efficiency.assemble(job, 2, "cpu")
    reward = next(term.reward for term in assembly.monitors.terms if term.name == efficiency.REWARD)
    clips = list(assembly.videos.source.clips())
    with torch.no_grad():
        rng = efficiency.Randomness(0)
        scores = {
            str(clip.video.path): float(reward(clip.video.pixels[None], [clip], rng).score) for clip in clips
        }
    drawn = {str(clip.video.path) for clip in efficiency._best_clips(assembly)(range(9))}
    assert drawn == set(sorted(scores, key=scores.__getitem__)[-3:])


def test_a_students_loss_is_that_of_the_straight_way():
    assembly = demo_student.assemble("cpu", 1e-3, 2)
    (pair,) = demo_student.teach(assembly, 2)
    with torch.no_grad():
        found = demo_student.loss_of(assembly, pair, 1)
        # two steps with a shift of 2 stand at times 1 and 2/3
        noised = pair.clean / 3 + 2 * pair.noise / 3
        told = torch.full((2,), 1000 * 2 / 3)
        plain = assembly.backbone.predict(noised, told, pair.conditioning.conditional_branch).value
    assert float(found) == pytest.approx(float((plain - (pair.noise - pair.clean)).square().mean()), rel=1e-5)


def run_of(method, lr, rise, fall, whole=True, seed=0):
    size = 0 if method == "supervised" else 4
    curve = [
        {
            "queries": 240 if method == "supervised" and done else size * done,
            "updates": done,
            methods_table.REWARD: 4 + rise * done,
            "demo_aesthetic_held_out": 4 + rise * done,
            methods_table.ALIGNMENT: 0.82 - fall * done,
            "demo_judge_shape": 1.0,
        }
        for done in range(0, 101, 10)
    ]
    return {"method": method, "lr": lr, "seed": seed, "batch_size": size, "whole": whole, "curve": curve}


def test_the_table_takes_the_best_setting_that_kept_the_content():
    runs = [run_of("vader", 1e-3, 0.1, 0.01), run_of("vader", 5e-4, 0.05, 0.0001)]
    runs += [run_of("supervised", 1e-3, 0.02, 0.0)]
    costs = {
        "vader": {"seconds_an_update": 2.0},
        "supervised": {"seconds_an_update": 1.0, "seconds_before": 30.0},
    }
    lines = methods_table.rows(runs, costs, "queries", 240)
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| base model", "-"],
        ["| fine-tuning on the best clips", "0.001"],
        ["| reward gradient", "0.0005"],
    ]
    assert lines[3].split(" | ")[3] == "6.00"  # its queries are spent before the first update
    assert lines[4].split(" | ")[3] == "7.00"  # after 60 updates of 4
    lines = methods_table.rows(runs, costs, "spent", 50.0)
    assert [line.split(" | ")[3] for line in lines[3:]] == ["4.40", "5.25"]  # 20 and 25 updates
    del costs["supervised"]
    assert len(methods_table.rows(runs, costs, "spent", 50.0)) == 4  # two of the head, base and vader


def test_a_run_that_the_clock_cut_before_the_budget_is_left_out():
    runs = [run_of("vader", 1e-3, 0.05, 0.0), run_of("vader", 1e-3, 9.0, 0.0, whole=False, seed=1)]
    runs[1]["curve"] = runs[1]["curve"][:3]
    _, points, seeds = methods_table.chosen(runs, lambda run: run["curve"], "queries", 240)
    assert seeds == 1
    assert points[0][methods_table.REWARD] == pytest.approx(7.0)
