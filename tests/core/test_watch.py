"""The watch: what it measures, when it raises the alarm, what is kept, and what the guards do."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vader_core.hookspecs import hookimpl
from vader_core.registry import Plugin, load_registry
from vader_core.testing.plugin import add_testing_plugin
from vader_core.testing.tiny import BrightnessReward
from vader_core.watch import Watch, statistics


class DarknessReward(BrightnessReward):
    """One less brightness: falls exactly as far as brightness rises."""

    name = "darkness"

    def score_frames(self, frames, prompts):
        return 1.0 - super().score_frames(frames, prompts)


@pytest.fixture(scope="module")
def registry():
    module = types.ModuleType("darkness_plugin")

    @hookimpl
    def register_rewards(register):
        register("darkness", lambda config, *, device, dtype: DarknessReward())

    module.register_rewards = register_rewards
    found = add_testing_plugin(load_registry())
    found.add(module, Plugin("darkness", "darkness", "0", "darkness_plugin.plugin"))
    return found


# -- statistics --------------------------------------------------------------------------------------------


def test_a_still_grey_clip_has_no_motion_colour_or_contrast():
    found = statistics(torch.full((2, 3, 3, 16, 16), 0.5), seeds=2)
    assert found == pytest.approx(
        {"motion": 0.0, "saturation": 0.0, "contrast": 0.0, "over_exposure": 0.0, "diversity": 0.0}, abs=1e-6
    )


def test_each_statistic_answers_to_its_own_change():
    grey = torch.full((2, 3, 3, 32, 32), 0.5)
    white, red, striped, moving, differing = (grey.clone() for _ in range(5))
    white[:] = 1.7  # unclamped decoder output counts as white
    red[:, :, 1:] = 0.0
    striped[..., ::2], striped[..., 1::2] = 0.2, 0.8
    moving[:, 1] = 0.7
    differing[1] = 0.6
    assert statistics(white, 1)["over_exposure"] == 1.0
    assert statistics(white, 1)["contrast"] == pytest.approx(0.0, abs=1e-6)
    assert statistics(red, 1)["saturation"] == pytest.approx(0.5)
    assert statistics(striped, 1)["contrast"] == pytest.approx(0.3, rel=1e-3)
    assert statistics(striped, 1)["saturation"] == pytest.approx(0.0, abs=1e-6)
    assert statistics(moving, 1)["motion"] == pytest.approx(0.2)
    assert statistics(differing, 2)["diversity"] == pytest.approx(0.1, rel=1e-4)
    assert "diversity" not in statistics(differing, 1)


def test_diversity_compares_the_seeds_of_a_prompt_alone():
    clips = torch.zeros(4, 2, 3, 16, 16)
    clips[2:] = 1.0  # the second prompt looks different, its two seeds do not
    assert statistics(clips, 2)["diversity"] == 0.0


# -- the alarm ---------------------------------------------------------------------------------------------


def seen(limit, *validations):
    watch = Watch(limit)
    return watch, [watch.see(step, reward, monitors) for step, (reward, monitors) in enumerate(validations)]


def test_alarm_where_the_reward_rises_and_a_monitor_falls_past_its_limit():
    _, found = seen(0.05, (1.0, {"hps": 0.8}), (2.0, {"hps": 0.77}), (3.0, {"hps": 0.75}))
    assert [best for best, _ in found] == [True, True, False]
    assert [len(alarms) for _, alarms in found] == [0, 0, 1]
    message = found[2][1][0]
    assert all(text in message for text in ("rose from 1 to 3", "hps fell from 0.8 to 0.75", "5%"))


def test_no_alarm_where_the_reward_fell_too():
    _, found = seen(0.05, (1.0, {"hps": 0.8}), (0.9, {"hps": 0.1}))
    assert found[1] == (False, [])


def test_each_fallen_monitor_is_named():
    before, after = {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.5, "b": 1.5, "c": 0.5}
    _, found = seen(0.05, (0.0, before), (1.0, after))
    assert [alarm.split(" while ")[1].split()[0] for alarm in found[1][1]] == ["a", "c"]


def test_negative_scores_fall_downwards():
    _, found = seen(0.1, (0.0, {"m": -1.0}), (1.0, {"m": -1.05}), (1.0, {"m": -1.2}), (1.0, {"m": -0.5}))
    assert [len(alarms) for _, alarms in found] == [0, 0, 1, 0]


def test_best_is_the_highest_reward_within_every_limit():
    watch, _ = seen(
        0.05,
        (1.0, {"m": 1.0}),
        (2.0, {"m": 0.99}),
        (9.0, {"m": 0.5}),
        (1.5, {"m": 1.0}),
        (3.0, {"m": 0.96}),
        (2.5, {"m": 1.0}),
    )
    assert (watch.best_step, watch.best_reward) == (4, 3.0)


def test_the_memory_survives_a_checkpoint_and_forgets_what_came_after_it():
    watch, _ = seen(0.05, (1.0, {"m": 1.0}), (2.0, {"m": 1.0}))
    kept = json.loads(json.dumps(watch.state()))
    watch.see(2, 9.0, {"m": 1.0})
    again = Watch(0.05)
    again.restore(kept)
    assert again.state() == kept
    assert again.see(2, 3.0, {"m": 0.9})[1] == watch.see(2, 3.0, {"m": 0.9})[1] != []
    assert [entry["reward"] for entry in watch.history] == [1.0, 2.0, 3.0]
    fresh = Watch(0.05)
    fresh.restore(json.loads(json.dumps(Watch(0.05).state())))
    assert fresh.see(0, -5.0, {})[0]


# -- runs --------------------------------------------------------------------------------------------------

RUN = (
    "train --backbone tiny --reward brightness --monitor darkness --prompts fixed --num-steps 2 --lora-rank 2 "
    "--lr 0.02 --max-steps 8 --quiet -o trainer.trackers=[] -o trainer.validation_prompts=2 "
    "-o trainer.validate_every=1 -o trainer.checkpoint_every=1 -o trainer.keep=0"
).split()


def records(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in lines if record["kind"] == kind]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = adapter(one), adapter(other)
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture
def pushed(vader, tmp_path):
    run = tmp_path / "pushed"
    assert vader(*RUN, "--out", run) == 0
    return run


def expected_alarms(run: Path) -> list[int]:
    """Steps whose validation breaks the rule, worked out from the run's own figures."""
    base, *later = records(run, "validation")
    return [
        record["step"]
        for record in later
        if record["rewards"]["brightness"] > base["rewards"]["brightness"]
        and record["monitors"]["darkness"] < 0.95 * base["monitors"]["darkness"]
    ]


def test_a_pushed_run_says_so_and_keeps_the_best_adapter(pushed):
    alarmed = [record["step"] for record in records(pushed, "alarm")]
    assert alarmed == expected_alarms(pushed)
    assert alarmed[-1] == 8
    best = json.loads((pushed / "checkpoints" / "best" / "best.json").read_text())
    assert 0 < best["step"] < alarmed[0]
    within = [record for record in records(pushed, "validation") if record["step"] not in alarmed]
    assert best["rewards"]["brightness"] == max(record["rewards"]["brightness"] for record in within)
    assert best["monitors"]["darkness"] >= 0.95 * within[0]["monitors"]["darkness"]
    checkpoints = pushed / "checkpoints"
    assert same(checkpoints / "best", checkpoints / f"step-{best['step']:06d}")
    assert not same(checkpoints / "best", checkpoints / "step-000008")
    assert json.loads((pushed / "summary.json").read_text())["best_step"] == best["step"]
    page = (pushed / "report.html").read_text()
    assert records(pushed, "alarm")[0]["message"] in page
    assert f"checkpoints/best holds step {best['step']}" in page


def test_pruning_never_takes_the_best(vader, tmp_path):
    run = tmp_path / "pruned"
    assert vader(*RUN, "-o", "trainer.keep=1", "--out", run) == 0
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best", "step-000008"}


def test_a_limit_that_nothing_passes_keeps_the_last_as_best(vader, tmp_path):
    run = tmp_path / "generous"
    assert vader(*RUN, "-o", "trainer.monitor_limit=10", "--out", run) == 0
    assert records(run, "alarm") == []
    rewards = [record["rewards"]["brightness"] for record in records(run, "validation")]
    best = json.loads((run / "checkpoints" / "best" / "best.json").read_text())["step"]
    assert rewards[best] == max(rewards)


def test_guard_stop_ends_the_run_at_the_first_alarm(vader, pushed, tmp_path, capsys):
    run = tmp_path / "stopped"
    capsys.readouterr()
    assert vader(*RUN, "--guard", "stop", "--out", run) == 0
    first = records(pushed, "alarm")[0]["step"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == first == records(run, "train")[-1]["step"]
    assert f"guard: stopped at step {first}" in capsys.readouterr().err
    assert (run / "checkpoints" / f"step-{first:06d}").is_dir()
    assert same(run / "checkpoints" / "best", pushed / "checkpoints" / "best")
