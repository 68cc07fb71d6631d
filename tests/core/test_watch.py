"""The watch: what it measures, when it raises the alarm, what is kept, and what the guards do."""

from __future__ import annotations

import json
import shutil
import types
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from vader_core.evaluation.watch import Verdict, Watch, statistics
from vader_core.hookspecs import hookimpl
from vader_core.registry import Plugin, load_registry
from vader_core.testing.plugin import add_testing_plugin
from vader_core.testing.tiny import BrightnessReward


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
    assert [verdict.best for verdict in found] == [True, True, False]
    assert [verdict.alarms for verdict in found] == [(), (), ("hps",)]
    message = found[2].messages[0]
    assert all(text in message for text in ("rose from 1 to 3", "hps fell from 0.8 to 0.75", "5%"))


def test_no_alarm_where_the_reward_fell_too():
    _, found = seen(0.05, (1.0, {"hps": 0.8}), (0.9, {"hps": 0.1}))
    assert found[1] == Verdict(best=False, alarms=(), messages=())


def test_an_alarm_is_told_when_it_begins_and_again_after_it_ended():
    base, fallen = (1.0, {"m": 1.0}), (2.0, {"m": 0.9})
    _, found = seen(0.05, base, fallen, fallen, (2.0, {"m": 0.99}), fallen)
    assert [verdict.alarms for verdict in found] == [(), ("m",), ("m",), (), ("m",)]
    assert [len(verdict.messages) for verdict in found] == [0, 1, 0, 0, 1]


def test_each_fallen_monitor_is_named():
    before, after = {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.5, "b": 1.5, "c": 0.5}
    _, found = seen(0.05, (0.0, before), (1.0, after))
    assert found[1].alarms == ("a", "c")
    assert [message.split(" while ")[1].split()[0] for message in found[1].messages] == ["a", "c"]


def test_negative_scores_fall_downwards():
    _, found = seen(0.1, (0.0, {"m": -1.0}), (1.0, {"m": -1.05}), (1.0, {"m": -1.2}), (1.0, {"m": -0.5}))
    assert [len(verdict.alarms) for verdict in found] == [0, 0, 1, 0]


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
    verdict = again.see(2, 3.0, {"m": 0.9})
    assert verdict == watch.see(2, 3.0, {"m": 0.9})
    assert verdict.alarms == ("m",)
    assert [entry["reward"] for entry in watch.history] == [1.0, 2.0, 3.0]
    fresh = Watch(0.05)
    fresh.restore(json.loads(json.dumps(Watch(0.05).state())))
    assert fresh.see(0, -5.0, {}).best


# -- runs --------------------------------------------------------------------------------------------------

RUN = (
    "train --backbone tiny --reward brightness --monitor darkness --prompts fixed --num-steps 2 "
    "--lora-rank 2 --lr 0.02 --max-steps 8 --quiet -o run.trackers=[] -o validation.prompts=2 "
    "-o validation.every=1 -o run.checkpoint_every=1 -o run.keep=0"
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
    """Steps whose validation breaks the rule, computed from the run's own figures."""
    base, *later = records(run, "validation")
    return [
        record["step"]
        for record in later
        if record["rewards"]["brightness"] > base["rewards"]["brightness"]
        and record["monitors"]["darkness"] < 0.95 * base["monitors"]["darkness"]
    ]


def test_a_pushed_run_says_so_and_keeps_the_best_adapter(pushed):
    alarmed = expected_alarms(pushed)
    assert [record["step"] for record in records(pushed, "validation") if record["alarms"]] == alarmed
    assert alarmed[-1] == 8
    begun = [step for step in alarmed if step - 1 not in alarmed]
    assert [record["step"] for record in records(pushed, "alarm")] == begun
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
    arguments = ["run.keep=1" if part == "run.keep=0" else part for part in RUN]
    assert vader(*arguments, "--out", run) == 0
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best", "step-000008"}


def test_a_limit_that_nothing_passes_keeps_the_last_as_best(vader, tmp_path):
    run = tmp_path / "generous"
    assert vader(*RUN, "-o", "validation.monitor_limit=10", "--out", run) == 0
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


ADAPT = ["--guard", "adapt"]


def test_guard_adapt_goes_back_to_the_best_adapter_with_half_the_rate(vader, pushed, tmp_path, capsys):
    run = tmp_path / "adapted"
    capsys.readouterr()
    assert vader(*RUN, *ADAPT, "--out", run) == 0
    said = capsys.readouterr().err
    first = records(pushed, "alarm")[0]["step"]
    kept = json.loads((pushed / "checkpoints" / "best" / "best.json").read_text())["step"]
    assert f"guard: back to the adapter of step {kept}; the learning rate is now 0.5" in said
    checkpoints = run / "checkpoints"
    assert same(checkpoints / f"step-{first:06d}", checkpoints / f"step-{kept:06d}")
    alarmed = {record["step"] for record in records(run, "validation") if record["alarms"]}
    assert min(alarmed) == first
    rate, rates = 0.02, {}
    for step in range(1, 9):
        rates[step] = rate
        rate *= 0.5 if step in alarmed else 1.0
    assert {record["step"]: record["learning_rate"] for record in records(run, "train")} == rates
    pushed_on, held = (records(folder, "validation") for folder in (pushed, run))
    assert min(record["monitors"]["darkness"] for record in held) > pushed_on[-1]["monitors"]["darkness"]


@pytest.mark.slow
def test_an_adapted_run_resumes_to_the_same_bytes(vader, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert vader(*RUN, *ADAPT, "--out", whole) == 0
    assert vader(*RUN, *ADAPT, "--out", cut) == 0
    alarmed = [record["step"] for record in records(cut, "validation") if record["alarms"]]
    for place in (cut / "checkpoints").glob("step-*"):
        if int(place.name.removeprefix("step-")) >= alarmed[0]:
            shutil.rmtree(place)
    shutil.rmtree(cut / "checkpoints" / "best")
    assert vader("train", "--resume", cut, "--quiet") == 0
    assert same(whole / "checkpoints" / "step-000008", cut / "checkpoints" / "step-000008")
    figures = [
        [(record["step"], record["rewards"], record["alarms"]) for record in records(run, "validation")]
        for run in (whole, cut)
    ]
    assert figures[0] == figures[1]


def test_a_checkpoint_without_a_best_adapter_is_not_continued_under_adapt(vader, pushed, capsys):
    assert vader("train", "--resume", pushed, *ADAPT, "--max-steps", 9, "--allow-changes", "--quiet") == 2
    assert "without validation.guard=adapt" in capsys.readouterr().err


@pytest.mark.parametrize("guard", ["stop", "adapt"])
def test_a_guard_with_nothing_to_watch_is_refused(vader, tmp_path, capsys, guard):
    bare = "train --backbone tiny --reward brightness --prompts fixed --quiet".split()
    assert vader(*bare, "--guard", guard, "--out", tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "--monitor NAME" in message
    assert "validation.every=N" in message
    assert not (tmp_path / "run").exists()


def test_the_progress_line_carries_the_alarm():
    from vader_core.cli.progress import ProgressListener

    listener = ProgressListener(max_steps=9)
    listener.console = Console(file=StringIO(), width=300)
    train = {
        "kind": "train",
        "step": 1,
        "rewards": {"brightness": 0.5},
        "loss": -0.5,
        "grad_norm": 1.0,
        "seconds": 1.0,
        "memory_gib": 1.0,
        "skipped": False,
    }
    validation = {"kind": "validation", "step": 1, "rewards": {"brightness": 0.5}, "monitors": {"m": 0.5}}
    for alarms in (["m"], []):
        listener.record({**validation, "alarms": alarms})
        listener.record(train)
    lines = [line for line in listener.console.file.getvalue().splitlines() if "s/step" in line]
    assert [line.rstrip().endswith("ALARM m") for line in lines] == [True, False]
