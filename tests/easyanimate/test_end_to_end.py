"""A tiny EasyAnimate through the whole core: train, resume, sample, convert; and the recipes."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from tiny_easyanimate import make
from vader_easyanimate.lora_format import EasyAnimateLora

from vader_core.api import configure, train
from vader_core.api.export import export
from vader_core.cli.sample import command as sample_command
from vader_core.data.frame_rule import FrameRule
from vader_core.data.groups import InGroups
from vader_core.data.resolutions import easyanimate_sizes
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prompts import Clip, Prompt, Shape
from vader_core.registry import load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import validated
from vader_core.run.layers import recipes
from vader_core.run.stages import stages_of
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


@pytest.mark.slow
def test_the_lora_moved(run, registry):
    adapter = find_adapter(str(run), registry)
    assert (adapter.rank, adapter.alpha, len(adapter.tensors)) == (2, 1.0, 2 * 95)
    assert all(value.abs().max() > 0 for value in adapter.tensors.values())


@pytest.mark.slow
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
        with av.open(str(next(iter(sorted(out.rglob("*.mp4")))))) as container:  # its tags name the file
            written.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert len(written[0]) == 9
    assert np.array_equal(written[0], written[1])


def save_clip(path: Path, frames: int, seed: int) -> None:
    """A moving square of one colour."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 192, 192, "yuv420p"
        for frame in range(frames):
            picture = np.full((192, 192, 3), 40, dtype=np.uint8)
            picture[8 * seed : 8 * seed + 24, 2 * frame : 2 * frame + 24] = (200, 30 * seed, 90)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


@pytest.mark.slow
def test_a_lora_of_ones_own_pictures_and_clips(registry, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for seed in range(2):
        save_clip(folder / f"{seed}.mp4", 24, seed)
        Image.new("RGB", (192, 192), (60 * seed, 200, 30)).save(folder / f"{seed}.png")
        for kind in ("mp4", "png"):
            (folder / f"{seed}.{kind}").with_suffix(".txt").write_text("a square")
    changes = {
        "reward": [],
        "prompts": {},
        "objective": {"supervised": {"caption_dropout": 0.0}},
        # one pass: two pictures, in which attention over frames has nothing to choose, and two clips
        "trainer": {**CONFIG["trainer"], "max_steps": 4},
        "data": {
            "source": f"videos:{folder}",
            "held_out": 0,
            "frame_interval": 1,
            "groups": {"side": 128},
        },
    }
    run = tmp_path / "run"
    summary = train(validated({**CONFIG, **changes}), out=run, registry=registry)
    assert summary["steps"] == 4
    EasyAnimateLora().write(find_adapter(str(run), registry), tmp_path / "lora.safetensors")
    stored = load_file(tmp_path / "lora.safetensors")
    assert len(stored) == 3 * 95
    moved = [value for name, value in stored.items() if name.endswith("lora_up.weight")]
    assert all(value.abs().max() > 0 for value in moved)


def test_full_weights_are_saved_under_official_names(registry, tmp_path):
    from vader_core.tuning.full import Full

    backbone = make()
    modules = configure(recipe="easyanimate_full", registry=registry).tuning.modules
    tuning = Full(
        backbone.denoiser, modules, to_official=backbone.to_official, from_official=backbone.from_official
    )
    trained = set(tuning.parameters())
    assert any("attn_temporal" in name for name in trained)
    assert not any(name.startswith(("adaln_single", "caption_projection")) for name in trained)
    tuning.save(tmp_path)
    state = load_file(tmp_path / "denoiser.safetensors")
    assert state.keys() == backbone.denoiser.state_dict().keys()
    again = make(
        weights=str(tmp_path / "denoiser.safetensors"), vae_weights="random", text_encoder_weights="random"
    )
    assert torch.equal(again.denoiser.proj_out.weight, backbone.denoiser.proj_out.weight)


@pytest.mark.slow
def test_full_weights_are_exported_as_a_model_folder(registry, tmp_path):
    """The folder is what `--weights` and the official loader read: config.json and sharded safetensors."""
    changes = {
        "reward": [],
        "prompts": {"source": "text:a cat"},
        "lora": {},
        "tuning": {"kind": "full", "modules": ["proj_out"]},
        "trainer": {**CONFIG["trainer"], "max_steps": 1},
    }
    config = {**CONFIG, **changes, "reward": [{"name": "brightness"}]}
    train(validated(config), out=tmp_path / "run", registry=registry)
    found = export(tmp_path / "run", tmp_path / "model/transformer", dtype="bf16", registry=registry)
    assert found["files"] == ["config.json", "diffusion_pytorch_model.safetensors"]
    trained = load_file(tmp_path / "run/checkpoints/step-000001/denoiser.safetensors")
    written = load_file(tmp_path / "model/transformer/diffusion_pytorch_model.safetensors")
    assert written.keys() == trained.keys()
    assert all(torch.equal(value.to(torch.bfloat16), written[name]) for name, value in trained.items())
    again = make(
        weights=str(tmp_path / "model"),
        architecture=None,
        vae_weights="random",
        text_encoder_weights="random",
    )
    assert again.architecture.denoiser == make().architecture.denoiser
    with pytest.raises(VaderError, match="not empty"):
        export(tmp_path / "run", tmp_path / "model/transformer", registry=registry)
    with pytest.raises(VaderError, match="not a run of --tune full"):
        export(tmp_path / "model", tmp_path / "other", registry=registry)


def test_recipes_are_valid(registry):
    ours = sorted(name for name in recipes(registry) if name.startswith("easyanimate"))
    assert ours == ["easyanimate_full", "easyanimate_hps", "easyanimate_lora", "easyanimate_stages"]
    whole = [configure(recipe=name, registry=registry) for name in ours]
    every = [part for one in whole for part in ([stage.config for stage in stages_of(one)] or [one])]
    assert len(every) == 3 + 5
    for config in every:
        options = {**config.backbone.options, "weights": "random"}
        made = registry.get("backbone", config.backbone.name).make(options, device="cpu", dtype=torch.float32)
        assert made.defaults.sampler == config.sampler.name
        if config.tuning.kind == "lora":
            assert (config.lora.rank, config.lora.alpha) == (128, 64.0)
        if config.data.groups is None:
            continue
        clips = [Prompt("", video=Clip(Path("any.mp4")))] * len(easyanimate_sizes())
        plan = InGroups(
            clips,
            [Shape(400, height, width, 24.0) for height, width in easyanimate_sizes().values()],
            range(1, len(clips) + 1),
            FrameRule(config.data.frame_rule, config.data.frame_interval, 24.0),
            options=config.data.groups,
            geometry=Geometry(384, 672, config.video.num_frames, 24.0),
            batch_size=config.trainer.batch_size,
            seed=0,
        )
        for size in plan.geometries():
            made.validate(size)
