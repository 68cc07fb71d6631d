"""Runs cannot be lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vader_core.run.config import validated
from vader_core.run.layers import changes, read_yaml, to_yaml

SCRIPT = Path(__file__).with_name("kill_and_resume.py")
RUN = (
    "train --backbone tiny --reward brightness --prompts fixed --max-steps 3 --num-steps 2 --lora-rank "
    "2 --quiet -o validation.prompts=0 -o run.trackers=[] -o run.checkpoint_every=1"
).split()


def EVERY(steps):
    """The run with another distance between its checkpoints."""
    return [
        f"run.checkpoint_every={steps}" if part.startswith("run.checkpoint_every") else part for part in RUN
    ]


def kill_and_resume(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--folder", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return done.stdout


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bytes(tmp_path):
    assert kill_and_resume(tmp_path, "--kills", "3").startswith("3 kills")


def test_torn_checkpoints_are_passed_over(tmp_path):
    assert re.match(r"3 kills, [1-9]", kill_and_resume(tmp_path, "--kills", "3", "--torn", "--seed", "1"))
    assert "passed over" in (tmp_path / "log.txt").read_text()


@pytest.mark.soak
@pytest.mark.parametrize("extra", [[], ["--torn"]])
def test_a_hundred_kills(tmp_path, extra):
    assert kill_and_resume(tmp_path, "--kills", "100", *extra).startswith("100 kills")


def test_a_components_options_are_the_same_after_reading(tmp_path):
    """In the file they are numbers, read back they are text: nobody has typed them yet."""
    path = tmp_path / "config.yaml"
    config = validated({"sampler": {"name": "ddim", "eta": 1.0}, "reward": [{"name": "motion", "weight": 2}]})
    path.write_text(to_yaml(config))
    read = validated(read_yaml(path))
    assert changes(read, config) == []
    other = validated({"sampler": {"name": "ddim", "eta": 0.5}, "reward": [{"name": "motion", "weight": 3}]})
    assert changes(read, other) == ["reward[motion].weight: 2.0 -> 3.0", "sampler.eta: '1.0' -> '0.5'"]


def test_a_run_with_a_number_for_a_component_resumes(vader, tmp_path):
    run = [*RUN, "-o", "sampler.noise_level=0.5", "--out", tmp_path / "run"]
    assert vader(*run) == 0
    assert vader("train", "--resume", tmp_path / "run", "--max-steps", 4, "--quiet") == 0


def test_existing_folder_is_refused_naming_the_ways_out(vader, tmp_path, capsys):
    assert vader(*RUN, "--out", tmp_path / "run") == 0
    assert vader(*RUN, "--out", tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "--resume" in message
    assert "--overwrite" in message
    assert vader(*RUN, "--out", tmp_path / "run", "--overwrite") == 0


def test_overwrite_leaves_a_folder_that_is_no_run_alone(vader, tmp_path, capsys):
    (tmp_path / "precious").write_text("thesis")
    assert vader(*RUN, "--out", tmp_path, "--overwrite") == 2
    assert "not a run directory" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == "thesis"


def test_changed_configuration_is_named_and_needs_permission(vader, tmp_path, capsys):
    run = tmp_path / "run"
    assert vader(*RUN, "--out", run) == 0
    assert vader("train", "--resume", run, "--lr", 0.5, "--max-steps", 4, "--quiet") == 2
    message = capsys.readouterr().err
    assert "trainer.lr: 0.0002 -> 0.5" in message
    assert "trainer.max_steps: 3 -> 4" in message
    assert "--allow-changes" in message
    assert vader("train", "--resume", run, "--max-steps", 4, "--allow-changes", "--quiet") == 0
    assert json.loads((run / "summary.json").read_text())["steps"] == 4


def test_a_second_process_is_refused(vader, tmp_path, capsys):
    from vader_core.run.directory import Run

    run = tmp_path / "run"
    assert vader(*RUN, "--out", run) == 0
    held = Run.open(run)
    try:
        assert vader("train", "--resume", run, "--quiet") == 2
        assert f"in use by another process (pid {os.getpid()})" in capsys.readouterr().err
    finally:
        held.release()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_leaves(vader, registry, tmp_path, monkeypatch, number):
    from vader_core.training import trainer

    original = trainer.Trainer.train_step

    def step_and_signal(self):
        original(self)
        if self.step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(trainer.Trainer, "train_step", step_and_signal)
    arguments = [*EVERY(0), "--out", tmp_path / "run"]
    assert vader(*arguments) == 128 + number
    assert (tmp_path / "run" / "checkpoints" / "step-000002" / "checksums.json").is_file()
    monkeypatch.undo()
    assert not (tmp_path / "run" / "checkpoints" / "step-000003").exists()


def test_checkpoints_are_pruned_but_never_the_best(vader, tmp_path):
    run = tmp_path / "run"
    arguments = [part for part in RUN if part != "validation.prompts=0"]
    arguments.remove("-o")
    arguments += ["--keep", "1", "--max-steps", "4", "--lr", "0.02", "--out", run]
    arguments += ["-o", "validation.prompts=1", "-o", "validation.every=2"]
    assert vader(*arguments) == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "step-000004"]
    assert json.loads((run / "checkpoints" / "best" / "best.json").read_text())["step"] in (2, 4)


def test_nonfinite_steps_are_counted_and_stop_the_run(vader, registry, tmp_path, capsys, monkeypatch):
    from vader_core.testing.tiny import BrightnessReward

    original = BrightnessReward.score_frames
    monkeypatch.setattr(BrightnessReward, "score_frames", lambda *args: original(*args) * float("nan"))
    run = tmp_path / "run"
    assert vader(*RUN, "--max-steps", "9", "-o", "trainer.nonfinite_limit=3", "--out", run) == 1
    message = capsys.readouterr().err
    assert "3 steps in a row" in message
    assert "step-000002" in message
    skipped = [json.loads(line)["skipped"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert skipped == [True, True, True]


def test_a_run_whose_every_step_was_skipped_is_no_success(vader, registry, tmp_path, capsys, monkeypatch):
    from vader_core.testing.tiny import BrightnessReward

    original = BrightnessReward.score_frames
    monkeypatch.setattr(BrightnessReward, "score_frames", lambda *args: original(*args) * float("nan"))
    assert vader(*RUN, "--out", tmp_path / "run") == 1
    assert "none of the 3 steps" in capsys.readouterr().err
    assert not (tmp_path / "run" / "summary.json").exists()


def test_weights_that_are_not_finite_are_not_kept(vader, tmp_path, capsys, monkeypatch):
    from vader_core.training import trainer

    train_step = trainer.Trainer.train_step

    def diverging(self):
        train_step(self)
        if self.step == 2:
            for value in self.model.tuning.parameters().values():
                value.data.fill_(float("inf"))

    monkeypatch.setattr(trainer.Trainer, "train_step", diverging)
    run = tmp_path / "run"
    assert vader(*RUN, "--out", run) == 1
    message = capsys.readouterr().err
    assert "no checkpoint of them is kept" in message
    assert str(run / "checkpoints" / "step-000001") in message
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000001"]


def test_every_checkpoint_is_written_once(vader, tmp_path, monkeypatch):
    from vader_core.training import trainer

    written = []
    finish = trainer.finish_checkpoint

    def counted(folder, step, *rest):
        written.append(step)
        return finish(folder, step, *rest)

    monkeypatch.setattr(trainer, "finish_checkpoint", counted)
    assert vader(*EVERY(2), "--max-steps", "4", "--out", tmp_path / "run") == 0
    assert written == [2, 4]


@pytest.mark.parametrize("at", [1, 2])
def test_a_checkpoint_that_is_written_again_is_never_lost(tmp_path, monkeypatch, at):
    """Killed at either rename, the old or the new one is whole."""
    from vader_core.run import checkpoint

    counters = ("reward_queries", "train_seconds", "skipped", "nonfinite_in_a_row", "lr_factor")
    position = dict.fromkeys(counters, 0) | {"watch": {"history": [], "best_step": None, "best_reward": 0.0}}
    for value in (1, 2):
        checkpoint.begin_checkpoint(tmp_path, 3)
        if value == 2:
            renames = []
            rename = Path.rename

            def dying(self, target, renames=renames, rename=rename):
                renames.append(target)
                if len(renames) == at:
                    raise KeyboardInterrupt
                return rename(self, target)

            monkeypatch.setattr(Path, "rename", dying)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.finish_checkpoint(tmp_path, 3, {}, position | {"value": value})
            monkeypatch.setattr(Path, "rename", rename)
        else:
            checkpoint.finish_checkpoint(tmp_path, 3, {}, position | {"value": value})
    place, faults = checkpoint.newest_whole(tmp_path)
    assert place is not None, faults
    assert checkpoint.read_checkpoint(place).position["value"] in (1, 2)


def test_leftovers_are_swept_when_a_run_is_continued(vader, tmp_path):
    run = tmp_path / "run"
    assert vader(*EVERY(1), "--max-steps", "2", "--out", run) == 0
    kept = run / "checkpoints"
    (kept / "step-000002").rename(kept / ".step-000002.old")
    (kept / ".step-000003.part").mkdir()
    assert vader("train", "--resume", run, "--quiet") == 0
    assert sorted(path.name for path in kept.iterdir() if path.name.startswith((".", "step-000002"))) == [
        "step-000002"
    ]


def test_a_run_killed_before_its_first_checkpoint_records_its_first_validation_once(vader, tmp_path):
    """It begins anew, so that nothing of what it recorded is left beside what it records again."""
    run = tmp_path / "run"
    words = [
        word.replace("validation.prompts=0", "validation.prompts=1")
        for word in RUN
        if word not in ("--max-steps", "3")
    ]
    assert vader(*words, "-o", "validation.seeds=1", "--max-steps", "1", "--out", run) == 0
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    assert vader("train", "--resume", run, "--quiet") == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in records] == [
        ("validation", 0),
        ("train", 1),
        ("validation", 1),
    ]


def test_what_could_not_be_pruned_is_removed_when_a_finished_run_is_resumed(vader, tmp_path):
    """The last pruning met an I/O error, which ends no run."""
    run = tmp_path / "run"
    assert vader(*RUN, "--keep", "1", "--out", run) == 0
    kept = run / "checkpoints"
    shutil.copytree(kept / "step-000003", kept / "step-000002")
    assert vader("train", "--resume", run, "--quiet") == 0
    assert [path.name for path in sorted(kept.glob("step-*"))] == ["step-000003"]
