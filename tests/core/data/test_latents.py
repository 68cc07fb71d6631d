"""Clips encoded beforehand: what lies in the cache, what trains from it, and a cache of another model."""

from __future__ import annotations

import json

import pytest
import torch

from vader_core.data.latents import CachedVideos, read_index, read_latents
from vader_core.errors import VaderError
from vader_core.prompts import Clip
from vader_core.testing.tiny import TinyBackbone

ENCODE = "data encode --backbone tiny --json".split()
TRAIN = "train --backbone tiny --num-steps 2 --lora-rank 2 --quiet -o run.trackers=[]".split()


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_clip_once):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(10):
        write_clip_once(folder / f"{number}.mp4", 6 + number, 24, 24, fps=8)
        (folder / f"{number}.txt").write_text(f"clip {number}")
    return folder


def test_encoded_once_and_trained_from(vader, clips, tmp_path, capsys, monkeypatch):
    cache = tmp_path / "cache"
    assert vader(*ENCODE, "--data", f"videos:{clips}", "--out", cache, "--windows", 2) == 0
    assert json.loads(capsys.readouterr().out) == {"encoded": 9 * 2 + 1, "kept": 0, "unreadable": 0}
    identity, entries = read_index(cache)
    assert identity["backbone"] == "tiny"
    assert sum(entry.held_out for entry in entries) == 1
    assert len({entry.key for entry in entries}) == 19
    clip = Clip(cache / entries[0].shard, entry=entries[0].key)
    assert read_latents(clip)[0].shape == (4, 4, 4, 4)
    assert read_latents(clip)[0].dtype == torch.float32

    (clips / "new.txt").write_text("one more")
    (clips / "new.mp4").write_bytes((clips / "9.mp4").read_bytes())
    assert vader(*ENCODE, "--data", f"videos:{clips}", "--out", cache, "--windows", 2) == 0
    found = json.loads(capsys.readouterr().out)
    # the new file's two windows, and at most what changed sides between training and validation
    assert 1 <= found["encoded"] <= 4
    assert found["kept"] >= 17

    def never(*_, **__):
        raise AssertionError("an encoder ran")

    monkeypatch.setattr(TinyBackbone, "encode_video", never)
    monkeypatch.setattr(TinyBackbone, "encodes_video", True)
    run = tmp_path / "run"
    arguments = ["--data", f"cache:{cache}", "--max-steps", 3, "--batch-size", 4, "--out", run]
    assert vader(*TRAIN, *arguments, "-o", "validation.prompts=0") == 0
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["held_out_loss"]) == {"base", "tuned"}


def test_a_cache_of_another_model_is_refused(vader, clips, tmp_path, capsys):
    cache = tmp_path / "cache"
    assert vader(*ENCODE, "--data", f"videos:{clips}", "--out", cache) == 0
    capsys.readouterr()
    for arguments, said in (
        (["--height", "32"], "was encoded with video {'height': 16"),
        (["-o", "backbone.seed=1"], "was encoded with options {}, but this run has {'seed': '1'}"),
        (["-o", "data.crop=open_sora"], "was encoded with crop smooth, but this run has open_sora"),
        (["-o", "data.held_out=2"], "data.held_out has no effect on --data cache:"),
    ):
        assert vader(*TRAIN, "--data", f"cache:{cache}", *arguments, "--dry-run", "--device", "cpu") == 2
        assert said in capsys.readouterr().err
    assert vader(*ENCODE, "--data", f"videos:{clips}", "--out", cache, "--height", "32") == 2
    assert "encode again into another folder" in capsys.readouterr().err


def test_what_cannot_be_encoded(vader, clips, tmp_path, capsys):
    cache = tmp_path / "cache"
    assert vader(*ENCODE, "--data", f"cache:{clips}", "--out", cache) == 2
    assert "is encoded already" in capsys.readouterr().err
    grouped = ["-o", "data.groups={}", "-o", "data.frame_interval=1"]
    assert vader(*ENCODE, "--data", f"videos:{clips}", "--out", cache, *grouped) == 2
    assert "anew for every batch" in capsys.readouterr().err
    with pytest.raises(VaderError, match="is no cache of `vader data encode`"):
        CachedVideos(clips, {})
    with pytest.raises(VaderError, match="it cannot be read"):
        read_latents(Clip(clips / "0.mp4", entry="x"))


def test_a_model_that_starts_from_a_picture_trains_from_its_cache(vader, clips, tmp_path, monkeypatch):
    cache, run = tmp_path / "cache", tmp_path / "run"
    image = [part if part != "tiny" else "tiny_image" for part in ENCODE]
    assert vader(*image, "--data", f"videos:{clips}", "--out", cache) == 0
    entry = read_index(cache)[1][0]
    _, first = read_latents(Clip(cache / entry.shard, entry=entry.key))
    assert first.shape == (3, 16, 16)
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    monkeypatch.setattr(TinyBackbone, "encode_video", None)
    train = [part if part != "tiny" else "tiny_image" for part in TRAIN]
    arguments = ["--data", f"cache:{cache}", "--max-steps", 1, "--out", run, "-o", "validation.prompts=0"]
    assert vader(*train, *arguments) == 0


@pytest.mark.slow
def test_clips_of_several_sizes_are_encoded_for_their_buckets(vader, tmp_path, write_clip_once, capsys):
    clips, cache, run = tmp_path / "clips", tmp_path / "cache", tmp_path / "run"
    clips.mkdir()
    for number, (height, width) in enumerate([(144, 256)] * 2 + [(256, 144)] * 2):
        write_clip_once(clips / f"{number}.mp4", 12, height, width, fps=8)
        (clips / f"{number}.txt").write_text(f"clip {number}")
    asked = ["-o", "data.buckets={144p: {4: [1.0, 2]}}", "-o", "data.frame_interval=1"]
    data = ["--data", f"videos:{clips}", "-o", "data.held_out=0"]
    assert vader(*ENCODE, *data, "--out", cache, *asked) == 0
    shapes = {
        tuple(read_latents(Clip(cache / entry.shard, entry=entry.key))[0].shape[1:])
        for entry in read_index(cache)[1]
    }
    assert shapes == {(4, 36, 64), (4, 64, 36)}
    capsys.readouterr()
    arguments = ["--data", f"cache:{cache}", "--max-steps", 2, "--out", run, "-o", "validation.prompts=0"]
    assert vader(*TRAIN, *arguments) == 2
    assert "was encoded with bucket" in capsys.readouterr().err
    assert vader(*TRAIN, *arguments, *asked) == 0
