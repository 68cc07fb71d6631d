"""Batches of clips: each can be made again, a second start goes on, and the page shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import av
import pytest
import torch
from PIL import Image

from vader_core import api
from vader_core.cli import sample as command
from vader_core.errors import MachineError, VaderError
from vader_core.evaluation import clip_folder
from vader_core.run.layers import changed

PROMPTS = ["a red ball", "a blue star"]


@pytest.fixture
def config(registry):
    found = api.configure(
        registry=registry,
        backbone={"name": "tiny", "weights": "random"},
        sampler={"num_steps": 2},
        trainer={"device": "cpu", "seed": 7},
    )
    return found


def asked(config, prompt, **sections):
    return changed(config, prompts={"source": f"text:{prompt}"}, **sections)


class Heard:
    def __init__(self):
        self.records = []

    def plan(self, facts): ...

    def say(self, message): ...

    def phase(self, doing, done, total): ...

    def record(self, record):
        self.records.append(record)


def test_a_clip_is_a_function_of_its_prompt_and_seed_alone(config, registry, tmp_path):
    batch = api.sample(
        asked(config, PROMPTS[0]), count=3, batch_size=2, out=tmp_path / "all", registry=registry
    )
    alone = api.sample(asked(config, PROMPTS[0], trainer={"seed": 9}), registry=registry)
    assert [pair.seed for pair in batch.pairs] == [7, 8, 9]
    assert torch.equal(batch.videos[2], alone.videos[0])
    assert not torch.equal(batch.videos[0], batch.videos[1])


def test_the_folder_says_how_each_clip_is_made_again(config, registry, tmp_path, vader):
    out = tmp_path / "clips"
    api.sample(asked(config, PROMPTS[0]), count=2, out=out, rewards=["brightness"], registry=registry)
    entries = json.loads((out / "prompts.json").read_text())
    assert [entry["file"] for entry in entries] == [f"00-a-red-ball-seed{seed}.mp4" for seed in (7, 8)]
    assert all(entry["scores"]["brightness"] != 0 for entry in entries)
    with av.open(str(out / entries[1]["file"])) as container:
        assert container.metadata["title"] == PROMPTS[0]
        assert json.loads(container.metadata["comment"])["seed"] == 8
    again = tmp_path / "again"
    assert vader(*entries[1]["command"][1:], "--out", again) == 0
    (made,) = again.glob("*.mp4")
    first = [frame.to_ndarray() for frame in av.open(str(out / entries[1]["file"])).decode(video=0)]
    second = [frame.to_ndarray() for frame in av.open(str(made)).decode(video=0)]
    assert all((one == two).all() for one, two in zip(first, second, strict=True))
    page = (out / "index.html").read_text()
    assert "a red ball" in page
    assert 'src="00-a-red-ball-seed7.mp4"' in page
    assert "--seed 8" in page


def test_the_base_models_clip_says_what_made_it(config, registry, tmp_path, vader):
    run, out = tmp_path / "run", tmp_path / "clips"
    few = ["--reward", "brightness", "--max-steps", "1", "--num-steps", "2", "-o", "validation.prompts=0"]
    assert vader("train", "--backbone", "tiny", "--prompts", "fixed", *few, "--quiet", "--out", run) == 0
    both = {"lora": [str(run), f"{run}:0.5"], "base": True, "keep_videos": False, "registry": registry}
    api.sample(asked(config, PROMPTS[0]), out=out, **both)
    entries = {entry["base"]: entry for entry in json.loads((out / "prompts.json").read_text())}
    assert (entries[False]["settings"]["lora_scale"], len(entries[False]["settings"]["lora"])) == (1.0, 2)
    base = entries[True]
    assert (base["settings"]["lora_scale"], base["settings"]["lora"]) == (0.0, [str(run)])
    assert vader(*base["command"][1:], "--out", tmp_path / "again") == 0
    (made,) = (tmp_path / "again").glob("*.mp4")
    (again,) = json.loads((tmp_path / "again" / "prompts.json").read_text())
    assert again["command"][1:] == base["command"][1:]
    first, second = (
        [frame.to_ndarray() for frame in av.open(str(path)).decode(video=0)]
        for path in (out / base["file"], made)
    )
    assert all((one == two).all() for one, two in zip(first, second, strict=True))
    heard = Heard()
    api.sample(asked(config, PROMPTS[0]), out=out, listener=heard, **both)  # the same settings: nothing to do
    assert not heard.records


def test_more_than_anybody_asked_for_is_not_begun(config, registry, tmp_path):
    many = tmp_path / "many.txt"
    many.write_text("\n".join(f"thing {number}" for number in range(7)))
    many_asked = changed(config, prompts={"source": f"file:{many}"})
    said = "this would make 14 clips: say how many prompts with --max-prompts N, or which with --prompts"
    with pytest.raises(VaderError, match=said):
        api.sample(many_asked, count=2, most_prompts=6, out=tmp_path / "clips", registry=registry)
    assert not (tmp_path / "clips").exists()


def test_more_than_could_ever_be_made_is_not_begun(config, registry, tmp_path):
    with pytest.raises(VaderError, match="use at most 100,000 videos per prompt"):
        api.sample(config, count=10**20, out=tmp_path / "clips", registry=registry)


def test_clips_are_written_in_further_forms(config, registry, tmp_path):
    out = tmp_path / "clips"
    api.sample(asked(config, PROMPTS[0]), out=out, registry=registry)
    made = (out / "00-a-red-ball-seed7.mp4").stat().st_mtime_ns
    heard = Heard()
    told = {"also": ["gif", "webm"], "registry": registry, "listener": heard, "keep_videos": False}
    api.sample(asked(config, PROMPTS[0]), out=out, **told)
    assert (out / "00-a-red-ball-seed7.mp4").stat().st_mtime_ns == made  # not sampled again
    assert not heard.records
    for form in ("gif", "webm"):
        assert (out / f"00-a-red-ball-seed7.{form}").is_file()
        assert f'href="00-a-red-ball-seed7.{form}" download' in (out / "index.html").read_text()
    index = api.export_site([out], tmp_path / "site")
    assert len(list(index.parent.rglob("*.gif"))) == 1
    api.sample(asked(config, PROMPTS[0], trainer={"seed": 8}), out=out, overwrite=True, registry=registry)
    assert not list(out.glob("*.gif"))  # of the clips that were replaced
    with pytest.raises(VaderError, match="'avi' is no form of a clip: use gif or webm"):
        api.sample(asked(config, PROMPTS[0]), out=out, also=["avi"], registry=registry)


def test_a_second_start_goes_on_and_other_settings_are_refused(config, registry, tmp_path):
    out, config = tmp_path / "clips", asked(config, PROMPTS[0])
    api.sample(config, count=2, out=out, registry=registry)
    kept = out / "00-a-red-ball-seed7.mp4"
    before = kept.stat().st_mtime_ns
    (out / "00-a-red-ball-seed8.mp4").unlink()
    heard = Heard()
    api.sample(config, count=2, out=out, keep_videos=False, registry=registry, listener=heard)
    made = [record["entry"]["seed"] for record in heard.records if record["kind"] == "clip"]
    assert made == [8]
    assert kept.stat().st_mtime_ns == before
    steps = [record["step"] for record in heard.records if record["kind"] == "denoising"]
    assert steps == [1, 2]
    with pytest.raises(VaderError, match="holds clips of other settings"):
        api.sample(changed(config, sampler={"num_steps": 3}), out=out, registry=registry)
    api.sample(changed(config, sampler={"num_steps": 3}), out=out, overwrite=True, registry=registry)
    assert sorted(path.name for path in out.glob("*.mp4")) == ["00-a-red-ball-seed7.mp4"]


def test_what_a_killed_process_left_is_swept_and_the_same_command_goes_on(config, registry, tmp_path):
    """Killed while the first clip is written, or between the clip and the list."""
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    dead, living = finished.stdout.decode().strip(), os.getppid()
    (tmp_path / f".00-a-red-ball-seed7.mp4.{dead}.part").write_bytes(b"half")
    api.sample(asked(config, PROMPTS[0]), out=tmp_path, registry=registry)
    names = {"00-a-red-ball-seed7.mp4", "index.html", "prompts.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    other = tmp_path / f".prompts.json.{living}.part"  # of a process that is writing still
    other.write_bytes(b"half")
    api.sample(asked(config, PROMPTS[0]), out=tmp_path, registry=registry)
    assert other.exists()


def test_the_list_is_there_before_the_first_clip(config, registry, tmp_path, monkeypatch):
    out = tmp_path / "clips"

    def full(*_):
        assert json.loads((out / "prompts.json").read_text()) == []
        raise MachineError("cannot write: No space left on device")

    monkeypatch.setattr(clip_folder, "write_video", full)
    with pytest.raises(MachineError, match="No space left"):  # not: it is no folder of clips
        api.sample(asked(config, PROMPTS[0]), out=out, registry=registry)
    monkeypatch.undo()
    api.sample(asked(config, PROMPTS[0]), out=out, registry=registry)
    assert len(json.loads((out / "prompts.json").read_text())) == 1


def test_what_somebody_else_put_there_is_left_alone(config, registry, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(VaderError, match="exists and is not empty"):
        api.sample(asked(config, "a cat"), out=tmp_path, registry=registry)


def test_the_same_model_is_not_loaded_twice(config, registry, monkeypatch):
    from vader_core.testing.tiny import TinyBackbone

    loads, load = [], TinyBackbone.load
    monkeypatch.setattr(TinyBackbone, "load", lambda self: (loads.append(1), load(self))[1])
    opened = api.Opened()
    first = api.sample(asked(config, PROMPTS[0]), registry=registry, opened=opened)
    second = api.sample(asked(config, PROMPTS[1]), registry=registry, opened=opened)
    third = api.sample(asked(config, PROMPTS[0]), registry=registry, opened=opened)
    assert len(loads) == 1
    assert torch.equal(first.videos, third.videos)
    assert not torch.equal(first.videos, second.videos)
    other = changed(asked(config, PROMPTS[0]), backbone={"seed": 5})
    api.sample(other, registry=registry, opened=opened)
    assert len(loads) == 2


def test_the_picture_it_starts_from_is_on_the_page(config, registry, tmp_path):
    picture = tmp_path / "start.png"
    Image.new("RGB", (900, 600), "red").save(picture)
    with_picture = changed(asked(config, "a cat"), prompts={"image": str(picture)})
    api.sample(with_picture, out=tmp_path / "clips", registry=registry)
    (entry,) = json.loads((tmp_path / "clips" / "prompts.json").read_text())
    assert Image.open(tmp_path / "clips" / entry["picture"]).size == (320, 213)
    assert f"prompts.image={picture}" in " ".join(entry["command"])
    assert entry["picture"] in (tmp_path / "clips" / "index.html").read_text()


def test_nobody_gets_more_clips_than_were_asked_for(config, registry, tmp_path, vader, capsys, monkeypatch):
    monkeypatch.setattr(command, "UNASKED", 1)
    assert vader("sample", "--backbone", "tiny", "--out", tmp_path / "clips") == 2
    assert "say how many prompts with --max-prompts" in capsys.readouterr().err
