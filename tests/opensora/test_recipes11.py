"""The recipes of Open-Sora 1.1 and text2bricks: they are read whole, and one trains in miniature."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from tiny_opensora11 import make

from vader_core.api.train import train
from vader_core.data.buckets import Buckets
from vader_core.data.frame_masks import FrameMasks
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.run.layers import merged, read_recipe, recipes, to_yaml
from vader_core.run.stages import stages_of
from vader_core.training.optimizer import learning_rate
from vader_core.video import write_video

#: Recipe, stage -> buckets, frame interval, frames.
RECIPES = {
    ("text2bricks_32f", 1): (17, 4, 32),
    ("text2bricks_32f", 2): (17, 4, 32),
    ("text2bricks_64f", 1): (17, 2, 16),
    ("text2bricks_64f", 2): (51, 2, 64),
    ("opensora11_stage1", 0): (359, 3, 16),
    ("opensora11_stage2", 0): (None, 3, 16),
    ("opensora11_stage3", 0): (848, 3, 16),
}
#: Rates of the published schedule before, in the middle of, and after each way, and of two phases as short.
SHORT, RATES = {"warmup_steps": 2, "cooldown_steps": 2}, [1.00001e-07, 5.005e-05, 1e-4, 5.5e-5]
DECAY = 0.9
TINY = {
    "backbone": {"weights": "random", "architecture": "tiny"},
    "video": {"height": 32, "width": 48, "num_frames": 4},
    "sampler": {"num_steps": 2},
    "data": {"buckets": None, "held_out": 0},
    "trainer": {"batch_size": 2, "ema": DECAY, "precision": "fp32", "device": "cpu", **SHORT},
    "validation": {"prompts": 0},
    "run": {"checkpoint_every": 1, "trackers": []},
}


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def stage(registry, name, number):
    """The settings of one stage; of the whole recipe for 0."""
    config = validated(read_recipe(registry, name))
    return stages_of(config)[number - 1].config if number else config


def test_they_are_found(registry):
    found = recipes(registry)
    assert all(found[name]["summary"] for name, _ in RECIPES)


@pytest.mark.parametrize(("name", "number"), RECIPES)
def test_published_settings(registry, name, number):
    config = stage(registry, name, number)
    count, interval, frames = RECIPES[name, number]
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


def test_the_rate_over_both_phases_is_the_published_table(registry):
    table = {0: 1.00001e-07, 750: 5.005e-05, 1499: 1e-4, 1500: 1e-4, 2750: 5.5e-5, 3999: 1e-5}
    up, down = stages_of(validated(read_recipe(registry, "text2bricks_32f")))
    assert (up.config.trainer.max_steps, down.config.trainer.max_steps) == (1500, 2500)
    for step, rate in table.items():
        part, within = (up, step) if step < 1500 else (down, step - 1500)
        assert learning_rate(part.config.trainer, within, part.place) == pytest.approx(rate, rel=2e-5)


def test_the_second_stage_of_64_frames_has_no_warm_up(registry):
    first, second = stages_of(validated(read_recipe(registry, "text2bricks_64f")))
    assert learning_rate(first.config.trainer, 0, first.place) == pytest.approx(1.00098e-07, rel=1e-5)
    assert learning_rate(second.config.trainer, 0, second.place) == 1e-5


@pytest.fixture(scope="module")
def miniature(registry, tmp_path_factory):
    """The recipe `text2bricks_32f` over a tiny model and four small clips, two steps to each phase."""
    clips = tmp_path_factory.mktemp("clips")
    for number in range(4):
        frames = torch.rand(20, 3, 32, 48, generator=torch.Generator().manual_seed(number))
        write_video(frames, clips / f"{number}.mp4", fps=30)
        (clips / f"{number}.txt").write_text(f"noise number {number}")
    tree = merged(read_recipe(registry, "text2bricks_32f"), TINY, {"data": {"source": f"videos:{clips}"}})
    stages = [merged(one, {"trainer": {"max_steps": 2}}) for one in tree["stages"]]
    return merged(tree, {"stages": stages})


@pytest.fixture(scope="module")
def run(registry, miniature, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(validated(miniature), out=folder, registry=registry)
    return folder


def newest(folder):
    return sorted((folder / "stages/2/checkpoints").glob("*/denoiser.safetensors"))[-1]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_trains_in_miniature(run):
    lines = metrics(run / "stages/1") + metrics(run / "stages/2")
    rates = [line["learning_rate"] for line in lines if line["kind"] == "train"]
    assert rates == pytest.approx(RATES, rel=2e-5)
    made, before = load_file(newest(run)), make().denoiser.state_dict()
    assert made.keys() == before.keys()
    kept = {name for name, value in made.items() if torch.equal(value, before[name])}
    assert kept == {"rope.freqs", "y_embedder.y_embedding"}


def test_the_average_follows_the_official_rule_over_the_seam(run):
    """e <- d e + (1 - d) w after each step, from the weights that training began with."""
    average = dict(make().denoiser.state_dict())
    for number in (1, 2):
        for place in sorted((run / f"stages/{number}/checkpoints").glob("step-*")):
            trained = torch.load(place / "state.pt", weights_only=True)["trained"]
            average |= {name: DECAY * average[name] + (1 - DECAY) * value for name, value in trained.items()}
            written = load_file(place / "denoiser.safetensors")
            assert len(trained) > 50
            for name, value in written.items():
                torch.testing.assert_close(value, average[name], rtol=1e-6, atol=1e-7)


def test_its_checkpoint_is_what_weights_takes(run):
    made = load_file(newest(run))
    again = make(weights=str(newest(run).parent), vae_weights="random", text_encoder_weights="random")
    assert all(torch.equal(value, made[name]) for name, value in again.denoiser.state_dict().items())


@pytest.mark.soak
def test_killed_in_the_second_phase_and_resumed(run, registry, miniature, tmp_path):
    folder, settings = tmp_path / "resumed", tmp_path / "miniature.yaml"
    settings.write_text(to_yaml(validated(miniature)))
    command = [sys.executable, "-m", "vader_core", "train", "--config", str(settings), "--out", str(folder)]
    with subprocess.Popen([*command, "--quiet"], stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not (folder / "stages/2/config.yaml").is_file() and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    train(validated(miniature), out=folder, resume=True, registry=registry)
    whole, resumed = load_file(newest(run)), load_file(newest(folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
