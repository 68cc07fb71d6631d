"""A run from the command line to its directory: what is written, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

RUN = (
    "train --backbone tiny --reward brightness --prompts fixed --num-steps 2 --lora-rank 2 --quiet"
).split()


def RG(option):
    """An option of the reward gradient."""
    return ["-o", f"objective.reward_gradient.{option}"]


FAST = ["-o", "validation.prompts=0", "-o", "run.trackers=[]"]


def test_a_run_writes_its_directory_and_raises_the_reward(vader, tmp_path):
    run = tmp_path / "run"
    arguments = [*RUN, "--monitor", "motion", "--max-steps", "10", "--lr", "0.02", "--out", run]
    arguments += ["-o", "validation.prompts=2", "-o", "validation.evaluation_pairs=8"]
    assert vader(*arguments) == 0
    names = {path.name for path in run.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "samples",
        "report.html",
    } <= names
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == summary["reward_queries"] == 10
    found = summary["evaluation"]["brightness"]
    assert found["difference"] > 0
    assert found["ci95"][0] > 0
    assert found["win_rate"] == 1.0
    assert set(summary["evaluation"]) == {"brightness", "motion"}
    for step in ("step-000000", "step-000010"):
        assert (run / "samples" / step / "03.mp4").stat().st_size > 0
        assert (run / "samples" / step / "contact_sheet.png").is_file()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validations = [record for record in records if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [0, 10]
    assert validations[0]["watch"]["base_distance"] == 0.0
    assert validations[1]["watch"]["base_distance"] > 0.0
    assert {"motion", "diversity", "saturation", "contrast", "over_exposure"} <= validations[0][
        "watch"
    ].keys()
    assert validations[1]["rewards"]["brightness"] > validations[0]["rewards"]["brightness"]


def test_peft_reads_our_adapter(vader, registry, tmp_path):
    from peft import PeftConfig

    assert vader(*RUN, *FAST, "--max-steps", "1", "--out", tmp_path / "run") == 0
    folder = tmp_path / "run" / "checkpoints" / "step-000001"
    config = PeftConfig.from_pretrained(str(folder))
    assert config.r == 2
    from safetensors.torch import load_file

    names = load_file(folder / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") for name in names)


def test_sample_and_evaluate_read_the_run(vader, tmp_path, capsys):
    run = tmp_path / "run"
    assert vader(*RUN, *FAST, "--max-steps", "5", "--lr", "0.02", "--out", run) == 0
    assert vader("sample", "--lora", run, "--max-prompts", 2, "--count", 2, "--out", tmp_path / "clips") == 0
    made = sorted(path.stem for path in (tmp_path / "clips").glob("*.mp4"))
    assert [(name[:3], name[-5:]) for name in made] == [
        (prompt, seed) for prompt in ("00-", "01-") for seed in ("seed0", "seed1")
    ]
    capsys.readouterr()
    assert vader("evaluate", run, "--pairs", 4, "--lora-scale", 0, "--lora-scale", 1, "--json") == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]
    assert found["0"]["brightness"]["difference"] == 0.0
    assert found["1"]["brightness"]["difference"] > 0.0


def test_config_round_trip(vader, tmp_path, capsys):
    arguments = [*RUN[1:-1], "--lr", "0.003", "-o", "backbone.width=24", "-o", "trainer.ema=0.99"]
    assert vader("config", *arguments) == 0
    text = capsys.readouterr().out
    tree = yaml.safe_load(text)
    assert tree["trainer"]["lr"] == 0.003
    assert tree["backbone"]["width"] == 24
    assert tree["objective"]["reward_gradient"]["gradient"] == "last"
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert vader("config", "--config", path) == 0
    assert capsys.readouterr().out == text


def test_dry_run_prints_the_plan_and_writes_nothing(vader, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = [
        *RUN,
        "--max-steps",
        7,
        "--batch-size",
        2,
        "--accumulate",
        3,
        "--out",
        out,
        "--dry-run",
        "--json",
    ]
    arguments.remove("--quiet")
    assert vader(*arguments) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["effective_batch"] == 6
    assert plan["reward_queries"] == 42
    assert plan["trainable_parameters"] > 0
    assert not out.exists()


def test_accumulating_two_of_one_equals_a_batch_of_two(vader, tmp_path):
    # `all` frames and `last`: nothing that a micro-step draws for itself enters.
    common = [*RUN, *FAST, "--reward-frames", "all", "--max-steps", "3", "--lr", "0.01"]
    assert vader(*common, "--batch-size", "2", "--out", tmp_path / "batch") == 0
    assert vader(*common, "--accumulate", "2", "--out", tmp_path / "accumulated") == 0
    one, other = (adapter(tmp_path / name) for name in ("batch", "accumulated"))
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-3, atol=2e-6), name


def adapter(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "adapter_model.safetensors")


TWO_PROCESSES = """
import sys
from vader_core.cli import run, train
from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin
registry = add_testing_plugin(load_registry())
train.load_registry = lambda: registry
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.soak
def test_two_processes_equal_one_with_twice_the_batch(vader, tmp_path):
    script = tmp_path / "vader_with_tiny.py"
    script.write_text(TWO_PROCESSES)
    common = [*RUN, *FAST, "--reward-frames", "all", "--max-steps", "3", "--lr", "0.01", "--device", "cpu"]
    assert vader(*common, "--batch-size", "2", "--out", tmp_path / "one") == 0
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    done = subprocess.run(
        [*launch, *common, "--batch-size", "1", "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    largest = max(float((value - two[name]).abs().max()) for name, value in one.items())
    moved = max(float(value.abs().max()) for name, value in one.items() if "lora_B" in name)
    print(f"two processes against one: largest difference {largest:.2e}, largest weight {moved:.2e}")
    assert moved > 1e-3
    assert largest < 1e-3 * moved  # rounding, amplified where Adam divides by a small gradient


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--backbone", "tinny", "--reward", "brightness"], "did you mean 'tiny'?"),
        (["--backbone", "tiny", "--reward", "brightnes"], "did you mean 'brightness'?"),
        (["--backbone", "tiny"], "--reward NAME"),
        ([*RUN[1:], "--height", "15"], "15"),
        ([*RUN[1:], "--num-steps", "0"], "greater than or equal to 1"),
        ([*RUN[1:], "--gradient", "last:9"], "last:2"),
        ([*RUN[1:], "--gradient", "lats"], "steps:I,J"),
        ([*RUN[1:], "--reward-frames", "77"], "0 to 3"),
        ([*RUN[1:], "--sampler", "ddim"], "VariancePreserving"),
        ([*RUN[1:], "--lora-targets", "to_qq"], "to_q"),
        ([*RUN[1:], "--lr", "-1"], "greater than 0"),
        ([*RUN[1:], "--reward", "motion:x"], "not a number"),
        ([*RUN[1:], "-o", "backbone.widht=8"], "did you mean 'width'?"),
        ([*RUN[1:], "-o", "trainer.lrr=8"], "did you mean 'lr'?"),
        ([*RUN[1:], "-o", "nonsense"], "KEY=VALUE"),
        ([*RUN[1:], "-o", "reward.motion.x=1"], "no reward 'motion' in this run"),
        ([*RUN[1:], "--monitor", "brightness"], "trained on"),
        ([*RUN[1:], "--precision", "fp16", "--device", "cpu"], "accelerator"),
        ([*RUN[1:], "--weights", "/nowhere/at/all"], "no such file"),
        ([*RUN[1:], "--prompts", "file:/nowhere.txt"], "nowhere.txt"),
        ([*RUN[1:], "--lora", "/nowhere/at/all"], "cannot be used with --lora"),
        ([*RUN[1:], "--config", "/nowhere.yaml"], "nowhere.yaml"),
        ([*RUN[1:], "--recipe", "nothing"], "unknown recipe"),
        ([*RUN[1:], "--resume", "/nowhere"], "not a run directory"),
        (["--backbone", "tiny", "--reward", "motion", "--prompts", "fixed", "--reward-frames", "0",
          "--reward", "brightness", *RG("low_variance=2"), "--gradient", "last:2"], "use last"),
        ([*RUN[1:], *RG("inner_updates=2"), "--gradient", "refl"], "use last"),
        ([*RUN[1:], *RG("inner_updates=2"), *RG("detach_input=true")], "leave one out"),
        ([*RUN[1:], *RG("low_variance=2"), *RG("segments=2")], "leave one out"),
        ([*RUN[1:], *RG("base_weight=1"), "-o", "performance.offload=true"], "leave one out"),
        ([*RUN[1:], "--lr", "0.1", "-o", "trainer.lr=0.2"], "set the same thing"),
        ([*RUN[1:], "-o", "trainer.lr=0.1", "-o", "trainer.lr=0.2"], "given twice"),
        ([*RUN[1:], "-o", "trainer.validate_every=2"], "is now 'validation.every'"),
        ([*RUN[1:], "-o", "sampling.options.shift=2"], "is now 'sampler.shift'"),
        ([*RUN[1:], "-o", "rewards.brightness.cap=2"], "is now 'reward.brightness.cap'"),
        ([*RUN[1:], "--lr", "inf"], "finite"),
        ([*RUN[1:], "--fps", "nan"], "finite"),
        ([*RUN[1:], "--fps", "1e19"], "from 0.001 to"),
        ([*RUN[1:], "--num-frames", "100004"], "use at most 100,000"),
        ([*RUN[1:], "--num-steps", "10001"], "less than or equal to 10000"),
        ([*RUN[1:], "--lora-rank", "9" * 20], "less than or equal to 32768"),
        ([*RUN[1:], "--prompts", "~nobody_here/x"], "no such home folder"),
        ([*RUN[1:], "--data", "~nobody_here/x"], "no such home folder"),
        ([*RUN[1:], "-o", "data.root=~nobody_here/x"], "no such home folder"),
        ([*RUN[1:], "--num-processes", "100000"], "cores; use at most"),
        ([*RUN[1:], "-o", "sampler.guidance_scale=1:3:4"], "FIRST:LAST"),
        ([*RUN[1:], "--monitor", "motion", "--monitor", "motion"], "given twice"),
        ([*RUN[1:], "-o", "objective.policy.rate=1"], "does not run"),
        ([*RUN[1:], "-o", "performance.guidance_interval=1-9"], "LO-HI"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_message(vader, tmp_path, capsys, arguments, expected):
    out = [] if "--resume" in arguments else ["--out", tmp_path / "run"]
    assert vader("train", *arguments, *out) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message


def test_inner_updates_are_counted_and_resume_to_the_same_bytes(vader, tmp_path):
    command = [*RUN, *FAST, "--batch-size", "2", "-o", "trainer.accumulate=2"]
    command += ["-o", "objective.reward_gradient.inner_updates=3"]
    assert vader(*command, "--max-steps", "2", "--out", tmp_path / "whole") == 0
    assert vader(*command, "--max-steps", "1", "--out", tmp_path / "cut") == 0
    assert vader("train", "--resume", tmp_path / "cut", "--max-steps", "2", "--allow-changes") == 0
    adapters = []
    for run in (tmp_path / "whole", tmp_path / "cut"):
        assert json.loads((run / "summary.json").read_text())["reward_queries"] == 2 * 2 * 2 * 3
        kept = run / "checkpoints" / "step-000002"
        adapters.append((kept / "adapter_model.safetensors").read_bytes())
        state = torch.load(kept / "state.pt", weights_only=True)["optimizer"]["state"]
        assert {int(moments["step"]) for moments in state.values()} == {6}
    assert adapters[0] == adapters[1]


def test_unreadable_configuration(vader, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text("backbone: [unclosed")
    assert vader("train", "--config", path) == 2
    assert "not YAML" in capsys.readouterr().err
    path.write_text("trainer:\n  learning_rte: 1\n")
    assert vader("train", "--config", path) == 2
    assert "trainer.learning_rte" in capsys.readouterr().err


def test_full_disk_ends_in_one_message(vader, tmp_path, capsys, monkeypatch):
    import errno

    import vader_core.run.checkpoint

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vader_core.run.checkpoint.torch, "save", full)
    assert vader(*RUN, *FAST, "--max-steps", "1", "--out", tmp_path / "run") == 1
    assert "No space left" in capsys.readouterr().err


def test_out_of_memory_ends_in_one_message(vader, tmp_path, capsys, monkeypatch):
    from vader_core.testing.tiny import TinyBackbone

    def too_large(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TinyBackbone, "predict", too_large)
    assert vader(*RUN, *FAST, "--max-steps", "1", "--out", tmp_path / "run") == 1
    message = capsys.readouterr().err
    assert "out of memory while training" in message
    assert "--precision bf16" in message
