"""A run goes on wherever it was killed, and gives the same table on every engine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import footage
import pytest
import server
from vader_data.manifest import read_manifest
from vader_data.planning import make_plan
from vader_data.probe import films
from vader_data.running import Settings, parse_shard, run

from vader_core.errors import VaderError

#: No weights, no network, and something for every stage to reject.
OPTIONS = (
    "scorers.text_area=none",
    "scorers.motion.min=0.5",
    "detector.name=adaptive",
    "cut.min_seconds=1",
)


def plan(*options):
    return make_plan("plain", options=(*OPTIONS, *options))


def shoot(folder, count, seed=0):
    """Films of one or two scenes, some still, some copies, one broken."""
    for number in range(count):
        lengths = (30,) if number % 3 else (30, 26)
        still = number % 4 == 3
        frames = footage.scenes(
            *lengths, seed=seed + number * 7, height=64, width=96, speed=0 if still else 2
        )
        footage.write(folder / f"{number:03d}.mp4", frames)
    footage.write(folder / "copy.mp4", footage.scenes(30, 26, seed=seed, height=64, width=96), crf=24)
    (folder / "broken.mp4").write_bytes(b"nothing")


@pytest.fixture(scope="module")
def films_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    shoot(folder, 8)
    return folder


@pytest.fixture(scope="module")
def expected(films_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected")
    assert run(films_folder, out, plan(), Settings(engine="process", shard_size=2))
    return read_manifest(out)


def test_every_clip_is_a_row_with_its_fate(expected, films_folder):
    fates = Counter((row["reject_stage"], bool(row["reject_reason"])) for row in expected.rows)
    assert fates[("cut", True)] == 1
    assert fates[("filter motion", True)] >= 2
    assert fates[("dedup", True)] >= 2
    assert fates[(None, False)] >= 6
    for row in expected.rows:
        place = expected.folder / (row["path"] or "absent")
        assert place.is_file() == (not row["reject_reason"]), row
    assert {row["source"] for row in expected.rows} == {str(film) for film in films(films_folder)}


def test_a_finished_run_does_nothing_again(expected, films_folder):
    log = (expected.folder / "log.jsonl").read_text()
    assert run(films_folder, expected.folder, plan(), Settings(engine="process", shard_size=2))
    assert (expected.folder / "log.jsonl").read_text() == log


def vader(*arguments, **more):
    return [sys.executable, "-m", "vader_core", "data", *map(str, arguments)], more


def test_processes_give_the_same_table(films_folder, expected, tmp_path):
    assert run(films_folder, tmp_path, plan(), Settings(engine="process", workers=2, shard_size=2))
    assert read_manifest(tmp_path).rows == expected.rows


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["daft", pytest.param("ray", marks=pytest.mark.soak)])
def test_engines_give_the_same_table(films_folder, expected, tmp_path, engine):
    """In a process of its own: Daft chooses its runner once per process."""
    options = [part for option in OPTIONS for part in ("-o", option)]
    arguments = [
        "run",
        films_folder,
        "--out",
        tmp_path,
        "--engine",
        engine,
        "--workers",
        2,
        "--shard-size",
        2,
    ]
    command, _ = vader(*arguments, *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path).rows == expected.rows
    begun = Counter(
        json.loads(line).get("begun") for line in (tmp_path / "log.jsonl").read_text().splitlines()
    )
    del begun[None]
    assert set(begun.values()) == {1}


@pytest.mark.slow
def test_a_killed_run_goes_on(films_folder, expected, tmp_path):
    options = [part for option in OPTIONS for part in ("-o", option)]
    command, _ = vader(
        "run", films_folder, "--out", tmp_path, "--engine", "process", "--shard-size", 2, *options
    )
    rng = random.Random(0)
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (tmp_path / "log.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.1, 2.5))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert run(films_folder, tmp_path, plan(), Settings(engine="process", shard_size=2))
    assert read_manifest(tmp_path).rows == expected.rows
    begun = Counter(
        json.loads(line).get("begun") for line in (tmp_path / "log.jsonl").read_text().splitlines()
    )
    del begun[None]
    assert sum(begun.values()) - len(begun) <= kills
    assert list(tmp_path.rglob(".*.part")) == []


@pytest.mark.soak
def test_an_array_of_processes_shares_the_shards(films_folder, expected, tmp_path):
    parts = [Settings(engine="process", shard_size=2, shard=(part, 2)) for part in range(2)]
    assert not run(films_folder, tmp_path, plan(), parts[0])
    assert not (tmp_path / "manifest.parquet").exists()
    assert not run(films_folder, tmp_path, plan(), parts[1])
    assert run(films_folder, tmp_path, plan(), parts[0])
    assert read_manifest(tmp_path).rows == expected.rows


def test_another_plan_or_other_films_are_refused(films_folder, tmp_path):
    folder = tmp_path / "in"
    footage.write(folder / "a.mp4", footage.panning(30))
    out = tmp_path / "out"
    run(folder, out, plan(), Settings(engine="process"))
    with pytest.raises(VaderError, match=r"begun with another plan; different: cut.min_seconds"):
        run(folder, out, plan("cut.min_seconds=2"), Settings(engine="process"))
    footage.write(folder / "b.mp4", footage.panning(30))
    with pytest.raises(VaderError, match=r"begun with other footage .1 new, 0 gone"):
        run(folder, out, plan(), Settings(engine="process"))
    with pytest.raises(VaderError, match="no such file or folder"):
        run(tmp_path / "absent", out, plan(), Settings(engine="process"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(VaderError, match="there is no film in it"):
        run(tmp_path / "empty", tmp_path / "other", plan(), Settings(engine="process"))


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/2", "1/0"])
def test_parts_that_are_none(text):
    with pytest.raises(VaderError, match="write I/N"):
        parse_shard(text)


@pytest.mark.slow
def test_captions_images_and_a_late_score(films_folder, tmp_path):
    def say(question, pictures):
        return "Single image" if len(pictures) == 1 else "The video shows a Wall"

    with server.captioner(say) as state:
        wanted = plan(
            "captions.name=openai",
            f"captions.options.url={state.url}",
            "captions.options.model=tiny",
            "captions.clean=true",
            "images.middle_frame=true",
            "scorers.size.scorer=reward",
            "scorers.size.options.reward=jpeg_size",
            "scorers.size.options.frames=middle",
            "scorers.size.after_captions=true",
        )
        assert run(films_folder, tmp_path, wanted, Settings(engine="process", shard_size=3))
        asked = len(state.questions)
        assert run(films_folder, tmp_path, wanted, Settings(engine="process", shard_size=3))
        assert len(state.questions) == asked
    rows = read_manifest(tmp_path).rows
    kept = [row for row in rows if not row["reject_reason"]]
    assert {row["text"] for row in kept} == {"a wall"}
    assert all(row["size"] is not None for row in kept)
    images = [row for row in rows if row["type"] == "image"]
    assert len(images) == len(kept)
    assert {row["reject_reason"] for row in images} == {"the captioner says: Single image"}
    assert list(tmp_path.rglob("*.png")) == []


def test_a_server_that_dies_leaves_a_run_that_goes_on(films_folder, tmp_path, monkeypatch):
    from vader_data import caption_openai

    monkeypatch.setattr(caption_openai, "_PAUSE", 0.0)

    def wanted(url):
        return plan(
            "captions.name=openai",
            f"captions.options.url={url}",
            "captions.options.model=m",
            "captions.options.retries=0",
        )

    answers = iter(["a wall"] * 3)

    def say(question, pictures):
        return next(answers, None) or (503, "gone home")

    with server.captioner(say) as state:
        with pytest.raises(VaderError, match="run the same command again"):
            run(films_folder, tmp_path, wanted(state.url), Settings(engine="process", shard_size=2))
        state.say = lambda *_: "a wall"
        assert run(films_folder, tmp_path, wanted(state.url), Settings(engine="process", shard_size=2))
    assert {row["text"] for row in read_manifest(tmp_path).kept()} == {"a wall"}


@pytest.mark.soak
def test_twenty_kills_of_two_hundred_clips(tmp_path, capsys):
    """The same table at the end, and nothing done twice but the shards that were under way."""
    shoot(tmp_path / "in", 148)
    options = [part for option in OPTIONS for part in ("-o", option)]
    settings = Settings(engine="process", shard_size=4)
    began = time.monotonic()
    assert run(tmp_path / "in", tmp_path / "whole", plan(), settings)
    took = time.monotonic() - began
    expected = read_manifest(tmp_path / "whole").rows
    out = tmp_path / "out"
    command, _ = vader(
        "run", tmp_path / "in", "--out", out, "--engine", "process", "--shard-size", 4, *options
    )
    rng, kills = random.Random(0), 0
    for _ in range(20):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(1.0, 1.0 + took / 24))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert run(tmp_path / "in", out, plan(), settings)
    assert read_manifest(out).rows == expected
    begun = Counter(json.loads(line).get("begun") for line in (out / "log.jsonl").read_text().splitlines())
    del begun[None]
    again_ = sum(begun.values()) - len(begun)
    with capsys.disabled():
        clips = sum(row["type"] == "video" for row in expected)
        print(f"\n{clips} clips, {kills} kills: {again_} of {len(begun)} shards begun twice; {took:.0f} s")
    assert again_ <= kills


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sources.json", "[]"),
        ("sources.json", '{"root": 3, "shards": [["a"]]}'),
        ("sources.json", '{"root": "/", "shards": [[1]]}'),
        ("sources.json", "[" * 100_000),
        ("plan.yaml", "[1]"),
        ("plan.yaml", "plan"),
        ("plan.yaml", "\x00"),
    ],
)
def test_a_runs_file_that_no_run_writes_is_one_message(tmp_path, name, content):
    shoot(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(VaderError, match=f"{name}.*--overwrite begins again"):
        run(tmp_path / "in", tmp_path / "out", plan(), Settings(engine="process"))


def test_a_table_with_other_types_is_no_manifest(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from vader_data.manifest import COLUMNS

    place = tmp_path / "manifest.parquet"
    pq.write_table(pa.table({name: [["x"]] for name in COLUMNS}), place)
    with pytest.raises(VaderError, match="not a manifest that a run wrote"):
        read_manifest(place)
