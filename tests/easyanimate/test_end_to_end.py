"""A tiny EasyAnimate through the whole core: train, resume, sample, convert; and the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from vader_easyanimate.lora_format import EasyAnimateLora

from vader_core.api import configure, train
from vader_core.cli.sample import command as sample_command
from vader_core.registry import load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import validated
from vader_core.run.layers import recipes
from vader_core.testing.plugin import add_testing_plugin

CONFIG = {
    "backbone": {"name": "easyanimate", "weights": "random", "architecture": "tiny"},
    "video": {"height": 64, "width": 64, "num_frames": 9},
    "sampler": {"num_steps": 2},
    "reward": [{"name": "brightness"}],
    "prompts": {"source": "animal"},
    "lora": {"rank": 2, "alpha": 1},
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
    assert (adapter.rank, adapter.alpha, len(adapter.tensors)) == (2, 1.0, 2 * 95)
    assert all(value.abs().max() > 0 for value in adapter.tensors.values())


def test_the_run_is_converted_and_sampled(run, registry, tmp_path):
    adapter, file = find_adapter(str(run), registry), tmp_path / "lora.safetensors"
    EasyAnimateLora().write(adapter, file)
    again = find_adapter(str(file), registry)
    assert all(torch.equal(again.tensors[name], value) for name, value in adapter.tensors.items())
    assert len(load_file(file)) == 3 * 95
    shared = ["--backbone", "easyanimate", "--weights", "random", "-o", "backbone.architecture=tiny"]
    shared += ["--height", "64", "--width", "64", "--num-frames", "9", "--num-steps", "2"]
    shared += ["--prompts", "text:a cat", "--seed", "5", "-o", "trainer.device=cpu"]
    written = []
    for name in (str(run), str(file)):
        out = tmp_path / f"samples{len(written)}"
        result = CliRunner().invoke(
            sample_command, [*shared, "--lora", name, "--lora-scale", "0.55", "--out", str(out)]
        )
        assert result.exit_code == 0, result.output
        written.append(next(iter(sorted(out.rglob("*.mp4")))).read_bytes())
    assert written[0] == written[1]


def test_recipes_are_valid(registry):
    ours = [name for name in recipes(registry) if name.startswith("easyanimate")]
    assert "easyanimate_hps" in ours
    for name in ours:
        config = configure(recipe=name, registry=registry)
        options = {**config.backbone.options, "weights": "random"}
        made = registry.get("backbone", config.backbone.name).make(options, device="cpu", dtype=torch.float32)
        assert made.defaults.sampler == config.sampler.name
        assert (config.lora.rank, config.lora.alpha) == (128, 64.0)
