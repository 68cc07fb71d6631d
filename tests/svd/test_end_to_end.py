"""A tiny model through the whole core: training, several segments, sampling, and the default run planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from vader_core import Geometry
from vader_core.api.configure import complete
from vader_core.api.plan import plan
from vader_core.api.train import train
from vader_core.assembly.prepare import prepare
from vader_core.builtin.samplers.euler import Euler
from vader_core.cli.sample import command as sample_command
from vader_core.first_party import FIRST_PARTY
from vader_core.lora.adapter import LoraSettings
from vader_core.lora.tuning import Lora
from vader_core.method.guidance import Guidance
from vader_core.method.mixture import Mixture, Term
from vader_core.method.model import Model
from vader_core.method.objective import Batch
from vader_core.method.options import RewardGradientOptions
from vader_core.method.reward_gradient import RewardGradient
from vader_core.method.segments import Segments, sample_video
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import validated
from vader_core.run.layers import changed, read_recipe, recipes
from vader_core.testing.plugin import add_testing_plugin
from vader_core.testing.tiny import BrightnessReward

RNG = Randomness(0, samples=(0, 1))
GEOMETRY = Geometry(16, 16, 3, 7)


@pytest.fixture(scope="module")
def registry():
    return add_testing_plugin(load_registry())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    pictures = str(tmp_path_factory.mktemp("pictures"))
    return {
        "backbone": {"name": "svd", "weights": "random", "architecture": "tiny"},
        "video": {"height": 16, "width": 24, "num_frames": 3},
        "sampler": {"num_steps": 3},
        "objective": {"reward_gradient": {"gradient": "last:2", "reward_frames": "last", "segments": 2}},
        "reward": [{"name": "brightness"}],
        "prompts": {"source": "svd_demo_images", "folder": pictures, "height": 32, "width": 48},
        "lora": {"rank": 2},
        "trainer": {"max_steps": 2, "lr": 1e-2, "device": "cpu"},
        "validation": {"prompts": 0},
        "run": {"checkpoint_every": 1, "trackers": []},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, registry, config) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(validated(config), out=folder, registry=registry)
    return folder


def test_the_lora_moved(run, registry):
    adapter = find_adapter(str(run), registry)
    assert (adapter.rank, len(adapter.tensors)) == (2, 96)
    moved = [value.any() for name, value in adapter.tensors.items() if ".lora_B." in name]
    assert all(moved)


@pytest.mark.slow
def test_the_run_is_sampled(run, tmp_path):
    out = tmp_path / "samples"
    flags = ["--lora", str(run), "--max-prompts", "1", "--num-frames", "2", "--out", str(out)]
    result = CliRunner().invoke(sample_command, flags)
    assert result.exit_code == 0, result.output
    assert list(out.rglob("*.mp4"))


# -- one step ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(make_backbone):
    """A model whose LoRA is away from zero."""
    backbone = make_backbone(neighbours="all")
    lora = Lora(backbone.denoiser, LoraSettings(2, 2.0, backbone.lora_targets))
    generator = torch.Generator().manual_seed(1)
    for parameter in lora.parameters().values():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Model(backbone, Euler(), Guidance((1.0, 3.0)), 3, GEOMETRY, lora)


def gradient(model, prompts, rng=RNG, **more):
    parameters = model.tuning.parameters()
    for parameter in parameters.values():
        parameter.grad = None
    objective = RewardGradient(
        RewardGradientOptions(**{"gradient": "last:2", "reward_frames": "all", **more})
    )
    objective.use(Mixture((Term("brightness", BrightnessReward(), 1.0),)))
    (prepared,) = objective.prepare(model, [Batch(prompts, GEOMETRY, rng)], None)
    result = objective.step(model, prepared, torch.Tensor.backward, 0)
    return torch.cat([parameter.grad.flatten() for parameter in parameters.values()]), result


def apart(one, other) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.slow
def test_a_batch_of_two_is_the_mean_of_two(tuned, prompts):
    both, _ = gradient(tuned, prompts)
    alone = [gradient(tuned, prompts[i : i + 1], Randomness(0, samples=(i,)))[0] for i in (0, 1)]
    assert apart(both, (alone[0] + alone[1]) / 2) < 1e-3


def test_recomputing_changes_nothing(tuned, prompts):
    plain, _ = gradient(tuned, prompts)
    recomputed, _ = gradient(replace(tuned, checkpointing=True), prompts)
    assert apart(recomputed, plain) < 1e-4


def test_three_segments_are_joined_without_the_repeated_frame(tuned, prompts):
    video, _ = sample_video(tuned, prompts, GEOMETRY, RNG, Segments(3))
    assert video.shape == (2, 3 + 2 + 2, 3, 16, 16)
    first, _ = sample_video(tuned, prompts, GEOMETRY, RNG.within("segment", 0))
    torch.testing.assert_close(video[:, :3], first, atol=1e-4, rtol=1e-4)
    # The second segment starts from the last frame of the first.
    own = RNG.within("segment", 1)
    boundary = video[:, 2].clamp(0, 1)
    with torch.no_grad():
        conditioning = tuned.condition(prompts, GEOMETRY, own, image=boundary)
        second = tuned.decode(tuned.rollout(conditioning, GEOMETRY, own).latents, GEOMETRY)
    torch.testing.assert_close(video[:, 3:5], second[:, 1:], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_the_boundary_frame_carries_gradient_only_when_asked(tuned, prompts):
    last, result = gradient(tuned, prompts, segments=3)
    assert result.frames == tuple(range(7))
    every, _ = gradient(tuned, prompts, segments=3, gradient_segments=[0, 1, 2])
    carried, _ = gradient(tuned, prompts, segments=3, gradient_segments=[0, 1, 2], carry_gradient=True)
    assert last.any()
    assert apart(every, last) > 0.05
    assert apart(carried, every) > 1e-4


@pytest.mark.slow
def test_memory_of_a_graph_does_not_grow_with_the_segments(tuned, prompts):
    """Bytes kept for the backward pass, the same frames given to the reward."""

    def kept(**more) -> int:
        held: dict[int, int] = {}

        def keep(value):
            storage = value.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            gradient(tuned, prompts, reward_frames="last", **more)
        return sum(held.values())

    assert kept(segments=3) < 1.1 * kept(segments=1)


@pytest.mark.slow
def test_one_middle_step_is_enough_for_a_gradient(tuned, prompts):
    middle, result = gradient(tuned, prompts, gradient="steps:1")
    assert result.steps == {1}
    last, _ = gradient(tuned, prompts, gradient="last")
    assert middle.norm() > 10 * last.norm()


# -- before the weights are there --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_default_run_is_planned_without_weights(registry):
    tree = {"backbone": {"name": "svd"}, "reward": [{"name": "brightness"}], "trainer": {"device": "cpu"}}
    facts = plan(validated(tree), registry=registry)
    assert facts["denoiser_parameters"] == 1_524_623_082
    assert facts["lora_modules"] == 192
    assert facts["video"] == "576x1024, 14 frames at 7 fps"


def test_fewer_steps_keep_a_gradient_that_fits(registry):
    tree = {
        "backbone": {"name": "svd"},
        "sampler": {"num_steps": 5},
        "reward": [{"name": "brightness"}],
        "trainer": {"device": "cpu"},
    }
    found = prepare(complete(validated(tree), registry), registry).config
    assert found.objective["reward_gradient"].options["gradient"] == "steps:2"


@pytest.mark.parametrize("name", ["svd_long_vjepa", "svd_aesthetic"])
def test_the_recipes_make_a_run(registry, name):
    assert recipes(registry)[name]["summary"]
    config = changed(validated(read_recipe(registry, name)), trainer={"device": "cpu"})
    assert {item.name for item in config.reward} <= set(FIRST_PARTY["vader-rewards"]["reward"])
    assembly = prepare(complete(config, registry), registry)
    assert assembly.geometry == Geometry(576, 1024, 14, 7)
    assert assembly.model.guidance.scale == (1.0, 3.0)
    assert assembly.segments.count == (3 if name == "svd_long_vjepa" else 1)
