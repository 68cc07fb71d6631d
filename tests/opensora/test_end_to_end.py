"""A tiny Open-Sora through the whole core: train, resume, sample, convert; and the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from vader_opensora.lora_format import OpenSoraLora

from vader_core.api.train import train
from vader_core.cli.gradient_norms import command as gradients_command
from vader_core.cli.sample import command as sample_command
from vader_core.registry import load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import validated
from vader_core.run.layers import merged, read_recipe, recipes
from vader_core.testing.plugin import add_testing_plugin

CONFIG = {
    "backbone": {"name": "opensora", "weights": "random", "architecture": "tiny"},
    "video": {"height": 32, "width": 48, "num_frames": 17},
    "sampler": {"num_steps": 2, "guidance_scale": 7.0},
    "reward": [{"name": "brightness"}],
    "prompts": {"source": "animal"},
    "lora": {"rank": 2, "alpha": 8},
    "trainer": {"max_steps": 2, "lr": 1e-2, "seed": 3, "device": "cpu"},
    "validation": {"prompts": 0},
    "run": {"checkpoint_every": 1, "trackers": []},
}


@pytest.fixture(scope="module")
def registry():
    return add_testing_plugin(load_registry())


@pytest.fixture(scope="module")
def run(tmp_path_factory, registry) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(validated(CONFIG), out=folder, registry=registry)
    return folder


def test_the_lora_moved(run, registry):
    adapter = find_adapter(str(run), registry)
    # 2 layers, spatial and temporal, 3 modules, A and B.
    assert (adapter.rank, adapter.alpha, len(adapter.tensors)) == (2, 8.0, 24)
    assert all(value.abs().max() > 0 for value in adapter.tensors.values())


def test_stopped_and_resumed_it_ends_where_the_whole_run_ends(run, registry, tmp_path):
    folder = tmp_path / "resumed"
    train(validated(merged(CONFIG, {"trainer": {"max_steps": 1}})), out=folder, registry=registry)
    train(validated(CONFIG), out=folder, resume=True, allow_changes=True, registry=registry)
    whole, resumed = (find_adapter(str(path), registry).tensors for path in (run, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_run_is_sampled_and_converted(run, registry, tmp_path):
    flags = ["--lora", str(run), "--max-prompts", "1", "--out", str(tmp_path / "samples")]
    result = CliRunner().invoke(sample_command, flags)
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "samples").rglob("*.mp4"))

    adapter = find_adapter(str(run), registry)
    OpenSoraLora().write(adapter, tmp_path / "peft_model_2.pt")
    again = find_adapter(str(tmp_path / "peft_model_2.pt"), registry)
    assert all(torch.equal(again.tensors[name], value) for name, value in adapter.tensors.items())


def test_long_video_continues_from_the_last_frame(registry, tmp_path):
    longer = {
        "trainer": {"max_steps": 1},
        "objective": {"reward_gradient": {"segments": 2, "reward_frames": "last"}},
    }
    train(validated(merged(CONFIG, longer)), out=tmp_path / "long", registry=registry)
    adapter = find_adapter(str(tmp_path / "long"), registry)
    assert all(value.abs().max() > 0 for value in adapter.tensors.values())


def test_recipes_are_valid(registry):
    ours = [name for name in recipes(registry) if name.startswith("opensora_")]
    assert ours == ["opensora_hps"]
    config = validated(read_recipe(registry, "opensora_hps"))
    backbone = registry.get("backbone", config.backbone.name)
    made = backbone.make(config.backbone.options, device="cpu", dtype=torch.float32)
    assert made.defaults.geometry.height == 276
    assert (config.lora.rank, config.lora.alpha, tuple(config.lora.targets)) == (16, 8.0, made.lora_targets)


def test_the_gradient_of_every_step_is_measured():
    flags = [
        "--num-frames",
        "17",
        "--num-steps",
        "3",
        "--last",
        "1,3",
        "--lora-alpha",
        "8",
        "--device",
        "cpu",
    ]
    flags += [text for key in ("architecture=tiny", "resolution=144p") for text in ("-o", f"backbone.{key}")]
    result = CliRunner().invoke(gradients_command, ["--backbone", "opensora", "--weights", "random", *flags])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    norms = [float(line.split()[-1]) for line in lines[2:]]
    assert len(norms) == 5
    # The last step alone is measured in both ways.
    assert norms[2] == pytest.approx(norms[3], rel=1e-2)
    assert all(norm > 0 for norm in norms)
