"""A tiny Open-Sora 1.1 through the whole core: reward gradients, clips, LoRA files."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_opensora11 import make

from vader_core.api.train import train
from vader_core.builtin.lora.diffusers import DiffusersFile
from vader_core.builtin.lora.peft import PeftFolder
from vader_core.lora.adapter import LoraSettings, adapter_of, attach_adapter, attach_lora
from vader_core.lora.formats import Adapter
from vader_core.registry import load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import validated
from vader_core.run.layers import merged
from vader_core.testing.plugin import add_testing_plugin
from vader_core.video import write_video

CONFIG = {
    "backbone": {"name": "opensora11", "weights": "random", "architecture": "tiny"},
    "video": {"height": 32, "width": 48, "num_frames": 4},
    "sampler": {"num_steps": 4},
    "lora": {"rank": 2, "alpha": 8},
    "trainer": {"max_steps": 2, "lr": 1e-2, "seed": 3, "device": "cpu"},
    "validation": {"prompts": 0},
    "run": {"checkpoint_every": 1, "trackers": []},
}
REWARDED = merged(CONFIG, {"reward": [{"name": "brightness"}], "prompts": {"source": "animal"}})


@pytest.fixture(scope="module")
def registry():
    return add_testing_plugin(load_registry())


def learned(folder, registry) -> dict[str, torch.Tensor]:
    found = find_adapter(str(folder), registry)
    assert (found.rank, found.alpha, len(found.tensors)) == (2, 8.0, 24)
    return dict(found.tensors)


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory, registry):
    folder = tmp_path_factory.mktemp("runs") / "rewarded"
    train(validated(REWARDED), out=folder, registry=registry)
    return folder


def test_the_rewards_gradient_moves_the_lora(rewarded, registry):
    assert all(value.abs().max() > 0 for value in learned(rewarded, registry).values())
    lines = [json.loads(line) for line in (rewarded / "metrics.jsonl").read_text().splitlines()]
    assert any("loss" in line for line in lines)


def test_stopped_and_resumed_it_ends_where_the_whole_run_ends(rewarded, registry, tmp_path):
    folder = tmp_path / "resumed"
    train(validated(merged(REWARDED, {"trainer": {"max_steps": 1}})), out=folder, registry=registry)
    train(validated(REWARDED), out=folder, resume=True, allow_changes=True, registry=registry)
    whole, resumed = learned(rewarded, registry), learned(folder, registry)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_clips_are_learned_from(registry, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(3):
        frames = torch.rand(15, 3, 32, 48, generator=torch.Generator().manual_seed(number))
        write_video(frames, clips / f"{number}.mp4", fps=24)
        (clips / f"{number}.txt").write_text(f"noise number {number}")
    data = {
        "data": {"source": f"videos:{clips}", "held_out": 0},
        "objective": {
            "supervised": {"frame_masks": {"image_head": 0.5}, "caption_dropout": 0.5, "tables": "float32"}
        },
    }
    folder = tmp_path / "run"
    train(validated(merged(CONFIG, data)), out=folder, registry=registry)
    assert all(value.abs().max() > 0 for value in learned(folder, registry).values())


def adapter() -> Adapter:
    backbone = make()
    attach_lora(backbone.denoiser, LoraSettings(rank=4, alpha=8.0, targets=backbone.lora_targets))
    found = adapter_of(backbone.denoiser)
    drawn = {name: torch.randn_like(value) for name, value in found.tensors.items()}
    return Adapter(drawn, 4, 8.0)


@pytest.mark.parametrize(("form", "place"), [(PeftFolder, "lora"), (DiffusersFile, "lora.safetensors")])
def test_lora_files(tmp_path, form, place):
    given, path = adapter(), tmp_path / place
    form().write(given, path)
    assert form().recognises(path)
    again = form().read(path)
    assert again.tensors.keys() == given.tensors.keys()
    # A file of diffusers knows no alpha: it is folded into the second half.
    strength = given.alpha / given.rank * again.rank / again.alpha
    for name, value in given.tensors.items():
        factor = strength if ".lora_B." in name else 1.0
        torch.testing.assert_close(again.tensors[name], value * factor)
    # Three blocks with four modules each: attention within and across frames, and both inputs of the text's.
    assert len(attach_adapter(make().denoiser, again, what="it").modules) == 12
