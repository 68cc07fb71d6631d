"""A tiny VideoCrafter2 through the whole core: train, kill, resume, sample, load the LoRA back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from vader_videocrafter.lora_format import PREFIX, VideoCrafterLora

from vader_core.api.configure import complete
from vader_core.api.plan import plan
from vader_core.api.train import train
from vader_core.assembly.loading import load_rewards
from vader_core.assembly.prepare import prepare
from vader_core.cli.sample import command as sample_command
from vader_core.lora.adapter import (
    LoraSettings,
    adapter_of,
    adapter_parameters,
    attach_adapter,
    attach_lora,
    set_adapter,
)
from vader_core.lora.formats import Adapter
from vader_core.method.objective import Batch
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import validated
from vader_core.testing.plugin import add_testing_plugin
from vader_core.text import TextCache

CONFIG = {
    "backbone": {"name": "videocrafter", "weights": "random", "architecture": "tiny"},
    "video": {"height": 16, "width": 24, "num_frames": 3},
    "sampler": {"num_steps": 3, "guidance_scale": 3.0},
    "reward": [{"name": "brightness"}],
    "prompts": {"source": "animal"},
    "lora": {"rank": 2, "alpha": 8},
    "trainer": {"max_steps": 3, "lr": 1e-2, "seed": 3, "device": "cpu"},
    "validation": {"prompts": 0},
    "run": {"checkpoint_every": 1, "trackers": []},
}

KILLED = """
import json, os, signal, sys
from vader_core.run.config import validated
from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin
from vader_core.run.tracking import Silence
from vader_core.api.train import train

class Killer(Silence):
    def record(self, record):
        if record.get("kind") == "train" and record["step"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

config = validated(json.loads(sys.argv[1]))
registry = add_testing_plugin(load_registry())
train(config, out=sys.argv[2], registry=registry, listener=Killer())
"""


@pytest.fixture(scope="module")
def registry():
    return add_testing_plugin(load_registry())


@pytest.fixture(scope="module")
def run(tmp_path_factory, registry) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(validated(CONFIG), out=folder, registry=registry)
    return folder


@pytest.mark.slow
def test_the_lora_moved(run, registry):
    adapter = find_adapter(str(run), registry)
    assert (adapter.rank, adapter.alpha, len(adapter.tensors)) == (2, 8.0, 108)
    assert all(value.abs().max() > 0 for value in adapter.tensors.values())


@pytest.mark.slow
@pytest.mark.soak
def test_killed_and_resumed_it_ends_where_the_whole_run_ends(run, registry, tmp_path):
    folder = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(CONFIG), str(folder)], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    train(validated(CONFIG), out=folder, resume=True, registry=registry)
    whole, resumed = (find_adapter(str(path), registry).tensors for path in (run, folder))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_the_run_is_sampled_and_converted(run, registry, tmp_path):
    flags = [
        "--lora",
        str(run),
        "--max-prompts",
        "1",
        "--num-frames",
        "2",
        "--out",
        str(tmp_path / "samples"),
    ]
    result = CliRunner().invoke(sample_command, flags)
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "samples").rglob("*.mp4"))

    adapter = find_adapter(str(run), registry)
    VideoCrafterLora().write(adapter, tmp_path / "lora.pt")
    again = find_adapter(str(tmp_path / "lora.pt"), registry)
    assert all(torch.equal(again.tensors[name], value) for name, value in adapter.tensors.items())


def gradient_of(
    backbone, registry, samples: tuple[int, ...], *, split: bool = False, recompute: bool = False
) -> dict[str, torch.Tensor]:
    """The LoRA's gradient of one training step of the given samples."""
    tree = json.loads(json.dumps(CONFIG))
    tree["performance"] = {"gradient_checkpointing": recompute}
    tree["sampler"]["split_guidance"] = split
    assembly = prepare(complete(validated(tree), registry), registry)
    load_rewards(assembly)
    parameters = adapter_parameters(backbone.denoiser)
    for parameter in parameters.values():
        parameter.grad = None
    rng = Randomness(seed=3, step=0, samples=samples)
    batch = Batch(assembly.draw_prompts(list(samples)), assembly.geometry, rng)
    model = replace(assembly.model, backbone=backbone)
    (prepared,) = assembly.objective.prepare(model, [{"prompts": batch}], None)
    assembly.objective.step(model, prepared, torch.Tensor.backward, 0)
    return {name: parameter.grad.clone() for name, parameter in parameters.items()}


@pytest.fixture
def tuned(backbone):
    """The tiny backbone with a LoRA whose halves are both away from zero."""
    attach_lora(backbone.denoiser, LoraSettings(2, 8.0, backbone.lora_targets))
    ours = adapter_of(backbone.denoiser)
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: value + 0.05 * torch.randn(value.shape, generator=generator)
        for name, value in ours.tensors.items()
    }
    set_adapter(backbone.denoiser, Adapter(moved, ours.rank, ours.alpha))
    return backbone


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, value in ours.items():
        assert value.norm() > 0
        assert ((value - theirs[name]).norm() / value.norm()).item() < 1e-3, name


@pytest.mark.slow
def test_neither_batching_nor_splitting_nor_recomputing_changes_the_gradient(tuned, registry):
    both = gradient_of(tuned, registry, (0, 1))
    one, two = (gradient_of(tuned, registry, (index,)) for index in (0, 1))
    same(both, {name: (one[name] + two[name]) / 2 for name in both})
    same(both, gradient_of(tuned, registry, (0, 1), recompute=True))
    same(both, gradient_of(tuned, registry, (0, 1), split=True))
    tuned.text_cache = TextCache("empty")
    same(both, gradient_of(tuned, registry, (0, 1)))


def test_only_the_lora_gets_a_gradient(tuned, registry):
    gradient_of(tuned, registry, (0,))
    own = {id(parameter) for parameter in adapter_parameters(tuned.denoiser).values()}
    for module in tuned.modules().values():
        assert all(value.grad is None for value in module.parameters() if id(value) not in own)


def test_the_default_run_is_planned_without_weights(registry):
    tree = {"backbone": {"name": "videocrafter"}, "reward": [{"name": "brightness"}]}
    facts = plan(validated({**tree, "trainer": {"device": "cpu"}}), registry=registry)
    assert facts["denoiser_parameters"] == 1_413_284_420
    assert (facts["lora_modules"], facts["trainable_parameters"]) == (198, 5_015_552)
    assert facts["video"] == "320x512, 12 frames at 24 fps"


def test_an_official_lora_attaches_to_the_backbone(backbone, registry, tmp_path):
    names = [
        name for name, module in backbone.denoiser.named_modules() if name.endswith(("to_q", "to_k", "to_v"))
    ]
    generator = torch.Generator().manual_seed(0)
    stored = {}
    for name in names:
        weight = backbone.denoiser.get_submodule(name).weight
        stored[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(16, weight.shape[1], generator=generator)
        stored[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(weight.shape[0], 16, generator=generator)
    torch.save(stored, tmp_path / "vader.pt")
    before = backbone.denoiser.get_submodule(names[0]).weight.clone()
    attached = attach_adapter(
        backbone.denoiser, find_adapter(str(tmp_path / "vader.pt"), registry), what="vader.pt"
    )
    assert list(attached.modules) == names
    x = torch.randn(1, before.shape[1], generator=generator)
    a, b = (stored[f"{PREFIX}{names[0]}.lora_{side}.weight"] for side in "AB")
    expected = x @ before.T + 0.5 * (x @ a.T) @ b.T  # 8 / 16
    torch.testing.assert_close(backbone.denoiser.get_submodule(names[0])(x), expected)
