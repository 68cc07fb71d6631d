"""The recipes of Open-Sora 1.1 and text2bricks: they are read whole, and one trains in miniature."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_opensora11 import make

from vader_core.api.train import train
from vader_core.data.buckets import Buckets
from vader_core.data.frame_masks import FrameMasks
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.run.layers import merged, read_recipe, recipes
from vader_core.video import write_video

#: Resolutions, frame counts and frame interval of each.
RECIPES = {
    "text2bricks_32f": (17, 4, 32),
    "text2bricks_64f_stage1": (17, 2, 16),
    "text2bricks_64f_stage2": (51, 2, 64),
    "opensora11_stage1": (359, 3, 16),
    "opensora11_stage2": (None, 3, 16),
    "opensora11_stage3": (848, 3, 16),
}
TINY = {
    "backbone": {"weights": "random", "architecture": "tiny"},
    "video": {"height": 32, "width": 48, "num_frames": 4},
    "sampler": {"num_steps": 2},
    "data": {"buckets": None, "held_out": 0},
    "trainer": {
        "max_steps": 3,
        "batch_size": 2,
        "lr": 1e-2,
        "min_lr": 1e-3,
        "final_lr": 2e-3,
        "warmup_steps": 1,
        "cooldown_steps": 1,
        "precision": "fp32",
        "device": "cpu",
    },
    "validation": {"prompts": 0},
    "run": {"checkpoint_every": 1, "trackers": []},
}


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def test_they_are_found(registry):
    found = recipes(registry)
    assert all(found[name]["summary"] for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_published_settings(registry, name):
    config = validated(read_recipe(registry, name))
    count, interval, frames = RECIPES[name]
    buckets = Buckets(config.data.buckets, config.data.bucket_rule)
    assert count in (None, buckets.count)
    assert (config.data.frame_interval, config.video.num_frames) == (interval, frames)
    options = registry.get("backbone", config.backbone.name).options(config.backbone.options)
    assert options.frame_interval == interval
    # What the model is told: the rate of the files.
    assert config.video.fps * interval == (30 if name.startswith("text2bricks") else 24)
    supervised = registry.get("objective", "supervised").options(config.objective["supervised"].options)
    masks = supervised.frame_masks
    FrameMasks(masks)
    assert sum(masks.values()) == pytest.approx(0.25)
    assert (config.trainer.ema, config.trainer.weight_decay, config.trainer.max_grad_norm) == (0.9999, 0, 1)


@pytest.fixture(scope="module")
def miniature(registry, tmp_path_factory):
    """The recipe `text2bricks_32f` over a tiny model and four small clips."""
    clips = tmp_path_factory.mktemp("clips")
    for number in range(4):
        frames = torch.rand(20, 3, 32, 48, generator=torch.Generator().manual_seed(number))
        write_video(frames, clips / f"{number}.mp4", fps=30)
        (clips / f"{number}.txt").write_text(f"noise number {number}")
    data = {"data": {"source": f"videos:{clips}"}}
    return merged(read_recipe(registry, "text2bricks_32f"), TINY, data)


@pytest.fixture(scope="module")
def run(registry, miniature, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(validated(miniature), out=folder, registry=registry)
    return folder


def newest(folder):
    return sorted((folder / "checkpoints").glob("*/denoiser.safetensors"))[-1]


def test_one_trains_in_miniature(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if line["kind"] == "train"]
    # Up in one step, down in one step, then constant: both phases of the published rate.
    assert rates == pytest.approx([1e-3, 1e-2, 2e-3])
    made, before = load_file(newest(run)), make().denoiser.state_dict()
    assert made.keys() == before.keys()
    kept = {name for name, value in made.items() if torch.equal(value, before[name])}
    assert kept == {"rope.freqs", "y_embedder.y_embedding"}


def test_its_checkpoint_is_what_weights_takes(run):
    made = load_file(newest(run))
    again = make(weights=str(newest(run).parent), vae_weights="random", text_encoder_weights="random")
    assert all(torch.equal(value, made[name]) for name, value in again.denoiser.state_dict().items())


def test_stopped_between_the_phases_and_resumed(run, registry, miniature, tmp_path):
    folder = tmp_path / "resumed"
    train(validated(merged(miniature, {"trainer": {"max_steps": 2}})), out=folder, registry=registry)
    train(validated(miniature), out=folder, resume=True, allow_changes=True, registry=registry)
    whole, resumed = load_file(newest(run)), load_file(newest(folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
