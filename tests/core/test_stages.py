"""A run in stages: one command, one directory, resumed wherever it was left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from vader_core.run.config import validated
from vader_core.run.staged_record import read_run
from vader_core.run.stages import stages_of
from vader_core.training.optimizer import learning_rate

RUN = (
    "train --backbone tiny --reward brightness --prompts fixed --num-steps 2 --quiet -o lora.rank=2 "
    "-o validation.prompts=0 -o run.trackers=[] -o run.checkpoint_every=1 -o trainer.ema=0.9 "
    "-o trainer.lr_schedule=one_cycle -o trainer.min_lr=0.001 -o trainer.final_lr=0.002 "
    "-o trainer.warmup_steps=2 -o trainer.cooldown_steps=3"
).split()
KEPT = {"optimizer": "kept", "schedule": "continued"}


def staged(folder: Path, *stages: dict) -> list[str]:
    path = folder / "stages.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"lr": 0.01}, "stages": list(stages)}))
    return [*RUN, "--config", str(path)]


def steps(number: int, **more) -> dict:
    return {"trainer": {"max_steps": number}, **more}


def adapter(run: Path, step: int) -> dict:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors")


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(bool((left[name] == right[name]).all()) for name in left)


def test_two_stages_that_keep_everything_are_one_run(vader, tmp_path):
    """Samples, noise, moments, average and rate go on: the weights are those of a run of five steps."""
    assert vader(*RUN, "--lr", 0.01, "--max-steps", 5, "--out", tmp_path / "one") == 0
    two = staged(tmp_path, steps(2), steps(3, seam=KEPT))
    assert vader(*two, "--out", tmp_path / "two") == 0
    assert same(adapter(tmp_path / "one", 5), adapter(tmp_path / "two/stages/2", 3))
    summary = json.loads((tmp_path / "two/summary.json").read_text())
    assert (summary["steps"], summary["reward_queries"]) == (5, 5)
    assert [stage["steps"] for stage in summary["stages"]] == [2, 3]


@pytest.mark.quick_cases("seam0")
@pytest.mark.parametrize(
    "seam",
    [
        {"optimizer": "fresh", "schedule": "continued"},
        {"optimizer": "kept", "schedule": "fresh"},
        {"optimizer": "kept", "schedule": "continued", "average": "fresh"},
        {"optimizer": "kept", "schedule": "continued", "weights": "average"},
    ],
)
def test_each_part_of_a_seam_makes_a_difference(vader, tmp_path, seam):
    kept = staged(tmp_path, steps(2), steps(2, seam=KEPT))
    assert vader(*kept, "--out", tmp_path / "kept") == 0
    other = staged(tmp_path, steps(2), steps(2, seam=seam))
    assert vader(*other, "--out", tmp_path / "other") == 0
    assert same(adapter(tmp_path / "kept/stages/1", 2), adapter(tmp_path / "other/stages/1", 2))
    assert not same(adapter(tmp_path / "kept/stages/2", 2), adapter(tmp_path / "other/stages/2", 2))


def test_a_schedule_goes_on_or_begins_anew():
    def rates(schedule):
        seam = {"optimizer": "fresh", "schedule": schedule}
        trainer = {"lr": 1.0, "lr_schedule": "linear"}
        tree = {"backbone": {"name": "tiny"}, "trainer": trainer, "stages": [steps(2), steps(2, seam=seam)]}
        return [
            learning_rate(stage.config.trainer, step, stage.place)
            for stage in stages_of(validated(tree))
            for step in range(2)
        ]

    assert rates("continued") == [1.0, 0.75, 0.5, 0.25]
    assert rates("fresh") == [1.0, 0.5, 1.0, 0.5]


def test_the_newest_weights_of_a_run_are_its_last_stages(vader, tmp_path, registry):
    from vader_core.run.adapters import find_adapter

    run = tmp_path / "run"
    assert vader(*staged(tmp_path, steps(1), steps(1, seam=KEPT)), "--out", run) == 0
    found = find_adapter(str(run), registry).tensors
    last = {
        name.removeprefix("base_model.model."): value for name, value in adapter(run / "stages/2", 1).items()
    }
    assert same(found, last)
    assert [record["step"] for record in read_run(run).train] == [1, 2]


def test_a_stage_whose_last_checkpoint_is_torn_is_trained_again(vader, tmp_path):
    run = tmp_path / "run"
    arguments = staged(tmp_path, steps(2), steps(2, seam=KEPT))
    assert vader(*arguments, "--out", run) == 0
    whole = adapter(run / "stages/2", 2)
    (run / "stages/1/checkpoints/step-000002/state.pt").write_bytes(b"torn")
    for path in (run / "stages/2/checkpoints").iterdir():
        (path / "state.pt").write_bytes(b"torn")
    assert vader("train", "--resume", run, "--quiet") == 0
    assert same(adapter(run / "stages/2", 2), whole)


def test_flags_hold_in_every_stage_and_o_reaches_one(vader, tmp_path, capsys):
    arguments = staged(tmp_path, steps(7), steps(8, seam=KEPT))
    more = ["--max-steps", 3, "-o", "stages.2.trainer.accumulate=2"]
    assert vader("config", *(part for part in arguments[1:] if part != "--quiet"), *more) == 0
    stages = yaml.safe_load(capsys.readouterr().out)["stages"]
    assert [stage["trainer"]["max_steps"] for stage in stages] == [3, 3]
    assert [stage["trainer"]["accumulate"] for stage in stages] == [1, 2]


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([steps(1), steps(1)], "stages.2 must say what it takes over"),
        ([steps(1, seam=KEPT)], "the first stage has none before it"),
        ([steps(1), steps(1, seam={"optimizer": "kept"})], "'stages.1.seam.schedule'"),
        ([steps(1), steps(1, seam=KEPT, stages=[])], "has stages of its own"),
        ([steps(1), steps(1, seam=KEPT, trainr={})], "unknown key 'stages.2.trainr'"),
        ([steps(1), steps(1, seam=KEPT, lora={"rank": 3})], "lora is not that of the stage before"),
        ([steps(1), steps(1, seam=KEPT, video={"num_frames": -1})], "num_frames"),
    ],
)
def test_stages_that_cannot_be_are_refused(vader, tmp_path, capsys, stages, says):
    arguments = [part for part in staged(tmp_path, *stages) if part != "lora.rank=2"]
    arguments = [part for at, part in enumerate(arguments) if arguments[at : at + 2] != ["-o", "-o"]]
    assert vader(*arguments, "--out", tmp_path / "run") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_in_stages_is_not_replaced_unasked(vader, tmp_path, capsys):
    run, arguments = tmp_path / "run", staged(tmp_path, steps(1), steps(1, seam=KEPT))
    assert vader(*arguments, "--out", run) == 0
    assert vader(*arguments, "--out", run) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert vader(*arguments, "--out", run, "--overwrite") == 0


def test_the_plan_tells_of_every_stage(vader, tmp_path, capsys):
    arguments = staged(tmp_path, steps(2, name="first"), steps(3, seam=KEPT, name="second"))
    assert vader(*arguments, "--dry-run", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "1: first" in said
    assert "3 steps of 1 video" in said


def test_a_stage_alone_is_not_resumed_and_a_finished_one_not_changed(vader, tmp_path, capsys):
    run = tmp_path / "run"
    assert vader(*staged(tmp_path, steps(1), steps(1, seam=KEPT)), "--out", run) == 0
    assert vader("train", "--resume", run / "stages/1", "--quiet") == 2
    assert f"--resume {run}" in capsys.readouterr().err
    assert vader("train", "--resume", run, "--lr", 0.5, "--quiet") == 2
    assert "trainer.lr: 0.01 -> 0.5" in capsys.readouterr().err
    assert vader("train", "--resume", run, "--lr", 0.5, "--allow-changes", "--quiet") == 2
    assert "stage 1 is done" in capsys.readouterr().err
