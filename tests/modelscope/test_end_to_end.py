"""A tiny ModelScope through the whole core: train, sample, convert, start again from the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from vader_modelscope.architecture import TINY
from vader_modelscope.backbone import ModelScope
from vader_modelscope.lora_format import DiffusersFormat, ListFormat, architecture_shapes
from vader_modelscope.options import ModelScopeConfig

from vader_core.api.configure import complete
from vader_core.api.plan import plan
from vader_core.api.train import train
from vader_core.assembly.loading import load_rewards
from vader_core.assembly.prepare import prepare
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_adapter, attach_lora
from vader_core.method.objective import Batch
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import validated
from vader_core.testing.plugin import add_testing_plugin

CONFIG = {
    "backbone": {"name": "modelscope", "weights": "random", "architecture": "tiny"},
    "video": {"height": 16, "width": 16, "num_frames": 3},
    "sampler": {"num_steps": 3, "guidance_scale": 3.0},
    "reward": [{"name": "brightness"}],
    "lora": {"rank": 4, "targets": ["all"]},
    "trainer": {"max_steps": 10, "lr": 2e-3, "seed": 3, "device": "cpu"},
    "validation": {"prompts": 1, "seeds": 2},
    "run": {"checkpoint_every": 5, "trackers": []},
}


@pytest.fixture(scope="module")
def registry():
    return add_testing_plugin(load_registry())


@pytest.fixture(scope="module")
def run(tmp_path_factory, registry) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(validated(CONFIG), out=folder, registry=registry)
    return folder


@pytest.mark.slow
def test_ten_steps_raise_the_brightness(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["kind"] == "validation"]
    before, after = (validations[i]["rewards"]["brightness"] for i in (0, -1))
    assert after > before + 0.01


@pytest.mark.slow
def test_every_layer_carries_a_lora_that_moved(run, registry):
    adapter = find_adapter(str(run), registry)
    shapes = architecture_shapes(TINY)
    assert len(adapter.tensors) == 2 * len(shapes)
    still = [name for name, value in adapter.tensors.items() if not value.abs().max() > 0]
    # with one step differentiated every layer is on the way to the frame
    assert not still


@pytest.mark.slow
def test_the_run_is_sampled(run, tmp_path):
    from vader_core.cli.sample import command

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
    result = CliRunner().invoke(command, flags)
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "samples").rglob("*.mp4"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ListFormat, DiffusersFormat])
def test_the_run_s_lora_goes_out_and_in_again(run, registry, tmp_path, kind):
    form = kind(architecture_shapes(TINY))
    adapter = find_adapter(str(run), registry)
    path = tmp_path / ("10_unet.pt" if kind is ListFormat else "lora.safetensors")
    form.write(adapter, path)
    again = form.read(path)
    assert (again.rank, again.alpha) == (adapter.rank, adapter.alpha)
    assert again.tensors.keys() == adapter.tensors.keys()
    assert all(torch.equal(again.tensors[name], value) for name, value in adapter.tensors.items())
    backbone = tiny()
    attached = attach_adapter(backbone.denoiser, again, what=str(path))
    assert len(attached.modules) == len(architecture_shapes(TINY))


def test_the_default_run_is_planned_without_weights(registry):
    tree = {"backbone": {"name": "modelscope"}, "reward": [{"name": "brightness"}]}
    facts = plan(validated({**tree, "trainer": {"device": "cpu"}}), registry=registry)
    assert facts["denoiser_parameters"] == 1_411_233_860
    assert facts["lora_modules"] == 264
    assert facts["video"] == "384x384, 16 frames at 8 fps"


def tiny() -> ModelScope:
    config = ModelScopeConfig(weights="random", architecture="tiny")
    backbone = ModelScope(config, device=torch.device("cpu"), dtype=torch.float32)
    backbone.load()
    return backbone


@pytest.fixture(scope="module")
def tuned() -> ModelScope:
    """The tiny backbone with a LoRA whose halves are both away from zero."""
    backbone = tiny()
    attach_lora(backbone.denoiser, LoraSettings(2, 2.0, ("all",)))
    for name, value in adapter_parameters(backbone.denoiser).items():
        if ".lora_B." in name:
            value.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return backbone


def gradient_of(
    backbone, registry, samples: tuple[int, ...], *, split=False, **performance
) -> dict[str, torch.Tensor]:
    """The LoRA's gradient of one training step of the given samples."""
    tree = json.loads(json.dumps(CONFIG))
    tree["trainer"]["batch_size"] = len(samples)
    tree["performance"] = performance
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


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, value in ours.items():
        assert value.norm() > 0, name
        assert float((value - theirs[name]).norm() / value.norm()) < 1e-3, name


@pytest.mark.slow
@pytest.mark.soak
def test_neither_batching_nor_splitting_nor_recomputing_changes_the_gradient(tuned, registry):
    both = gradient_of(tuned, registry, (0, 1))
    one, two = (gradient_of(tuned, registry, (index,)) for index in (0, 1))
    same(both, {name: (one[name] + two[name]) / 2 for name in both})
    same(both, gradient_of(tuned, registry, (0, 1), gradient_checkpointing=True))
    same(both, gradient_of(tuned, registry, (0, 1), split=True))


def test_only_the_lora_gets_a_gradient(tuned, registry):
    gradient_of(tuned, registry, (0,))
    own = {id(parameter) for parameter in adapter_parameters(tuned.denoiser).values()}
    for module in tuned.modules().values():
        assert all(value.grad is None for value in module.parameters() if id(value) not in own)
