"""A stranger's package brings a detector, a scorer and a captioner; a broken one is named."""

from __future__ import annotations

import subprocess
import sys

import footage
import pytest

PLUGIN = """
from pydantic import BaseModel
from vader_data.hookspecs import hookimpl


class Options(BaseModel):
    factor: float = 1.0


class Halves:
    shortest = 0

    def __init__(self, options):
        pass

    def boundaries(self, path, probe):
        return [0, probe.num_frames // 2, probe.num_frames]


class Brightness:
    batch_size = 2

    def __init__(self, options):
        self.options = options

    def indices(self, num_frames, fps):
        return [0]

    def score(self, clips):
        return [float(clip.frames.mean()) * self.options.factor for clip in clips]


class Echo:
    batch_size = 1

    def __init__(self, options):
        pass

    def indices(self, num_frames, fps):
        return [0]

    def caption(self, clips):
        return [f"a clip of {clip.num_frames} frames" for clip in clips]


@hookimpl
def register_detectors(register):
    register("halves", "stranger:Halves")


@hookimpl
def register_scorers(register):
    register("brightness", "stranger:Brightness", options=Options)


@hookimpl
def register_captioners(register):
    register("echo", "stranger:Echo")
"""


def installed(folder, source):
    """A distribution with an entry point of the group ``vader_data``, as pip would leave it."""
    (folder / "stranger.py").write_text(source)
    info = folder / "stranger-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vader_data]\nstranger = stranger\n")


def vader(folder, *arguments):
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from vader_core.cli import main; "
    code += "main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def film(tmp_path):
    return footage.write(tmp_path / "in" / "film.mp4", footage.panning(20))


def test_a_strangers_components_are_used_by_name(tmp_path, film):
    from vader_data.manifest import read_manifest

    installed(tmp_path, PLUGIN)
    done = vader(
        tmp_path,
        "data",
        "run",
        str(film.parent),
        "--out",
        str(tmp_path / "out"),
        "--engine",
        "process",
        "-o",
        "detector.name=halves",
        "-o",
        "cut.min_seconds=none",
        "--captions",
        "echo",
        "-o",
        "scorers.text_area=none",
        "-o",
        "scorers.motion=none",
        "-o",
        "duplicates.distance=none",
        "--scorer",
        "light=brightness:1..",
        "-o",
        "scorers.light.options.factor=2",
    )
    assert done.returncode == 0, done.stderr
    rows = read_manifest(tmp_path / "out").rows
    assert [(row["start_frame"], row["end_frame"], row["text"]) for row in rows] == [
        (0, 10, "a clip of 10 frames"),
        (10, 20, "a clip of 10 frames"),
    ]
    assert all(row["light"] > 100 for row in rows)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import absent_package", "the data plugin 'stranger' (stranger) failed to load"),
        (PLUGIN.replace("register_scorers", "register_scorer"), "register_scorer"),
        (PLUGIN.replace('"brightness"', '"farneback"'), "'farneback' is registered by both"),
    ],
)
def test_a_broken_one_is_named(tmp_path, film, source, message):
    installed(tmp_path, source)
    done = vader(tmp_path, "data", "run", str(film), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_are_in_the_group_data(tmp_path):
    done = vader(tmp_path, "data", "--help")
    for name in ("cut", "score", "caption", "filter", "dedup", "export", "report", "run"):
        assert f"\n  {name} " in done.stdout
