"""The single stages as commands, one after the other over one manifest, and what people get wrong."""

from __future__ import annotations

import footage
import pytest
import server
from vader_data.manifest import read_manifest

from vader_core.cli import run as vader


def data(capsys, *arguments):
    code = vader(["data", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out + told.err


@pytest.fixture
def cut(tmp_path, capsys):
    footage.write(tmp_path / "in" / "a.mp4", footage.scenes(60, 55))
    footage.write(tmp_path / "in" / "b.mp4", footage.scenes(60, 52, seed=2, speed=0))
    out = tmp_path / "out"
    code, told = data(capsys, "cut", tmp_path / "in", "--out", out, "-o", "detector.name=adaptive")
    assert (code, told) == (0, f"4 of 4 clips kept: {out / 'manifest.parquet'}\n")
    return out


NO_TEXT = ("-o", "scorers.text_area=none")


def test_stage_by_stage(cut, capsys):
    code, told = data(capsys, "score", cut, *NO_TEXT, "-o", "scorers.motion.min=1")
    assert (code, told.split()[0]) == (0, "2")
    assert read_manifest(cut).scores == ("motion",)
    code, told = data(capsys, "filter", cut, *NO_TEXT, "-o", "scorers.motion.min=none")
    assert (code, told.split()[0]) == (0, "4")
    code, told = data(capsys, "dedup", cut, "-o", "duplicates.distance=0")
    assert (code, told.split()[0]) == (0, "4")
    assert all(row["phash"] for row in read_manifest(cut).rows)
    with server.captioner(lambda *_: "In the video, a wall") as state:
        code, told = data(
            capsys,
            "caption",
            cut,
            "--captions",
            "openai",
            "-o",
            f"captions.options.url={state.url}",
            "-o",
            "captions.options.model=m",
        )
    assert code == 0, told
    assert {row["text"] for row in read_manifest(cut).rows} == {"A wall"}
    code, told = data(capsys, "export", cut, "--format", "opensora_csv", "--format", "webdataset")
    assert (code, len(told.splitlines())) == (0, 2)
    code, told = data(capsys, "report", cut / "manifest.parquet")
    assert (code, told.strip()) == (0, str(cut / "report.html"))


def test_a_score_is_added_by_a_flag(cut, capsys):
    code, _ = data(
        capsys,
        "score",
        cut,
        *NO_TEXT,
        "-o",
        "scorers.motion=none",
        "--scorer",
        "size=reward:..-2",
        "-o",
        "scorers.size.options.reward=jpeg_size",
    )
    assert code == 0
    found = read_manifest(cut)
    assert found.scores == ("size",)
    for row in found.rows:
        assert bool(row["reject_reason"]) is (row["size"] > -2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cut", "absent", "--out", "x"), "there is no film there"),
        (("score", "absent"), "no such manifest"),
        (("run", "absent", "--out", "x"), "no such file or folder"),
        (("run", ".", "--out", "x", "--preset", "easyanimat"), "unknown preset 'easyanimat'; did you mean"),
        (("run", ".", "--out", "x", "--scorer", "motion"), "write COLUMN=NAME"),
        (("run", ".", "--out", "x", "--scorer", "m=farneback:3"), "write the bounds as MIN..MAX"),
        (("run", ".", "--out", "x", "--shard", "2/2"), "write I/N"),
        (("run", ".", "--out", "x", "--preset", "text2bricks"), "--captions none"),
    ],
)
def test_mistakes_end_in_one_message(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, told = data(capsys, *arguments)
    assert code == 2
    assert message in told
    assert "Traceback" not in told


def test_a_manifest_without_the_score_names_it(cut, capsys):
    code, told = data(capsys, "filter", cut)
    assert code == 2
    assert "the manifest has no score 'motion'" in told
    code, told = data(capsys, "caption", cut)
    assert (code, "no captioner was named" in told) == (2, True)


def test_a_folder_of_something_else_is_not_written_to(tmp_path, capsys):
    footage.write(tmp_path / "in" / "a.mp4", footage.panning(30))
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    code, told = data(capsys, "run", tmp_path / "in", "--out", out, "--overwrite")
    assert code == 2
    assert "'thesis.txt', which no run wrote" in told


def test_overwrite_begins_again(cut, tmp_path, capsys):
    code, told = data(capsys, "cut", tmp_path / "in", "--out", cut)
    assert (code, "holds a manifest already" in told) == (2, True)
    code, told = data(
        capsys,
        "cut",
        tmp_path / "in",
        "--out",
        cut,
        "--overwrite",
        "-o",
        "detector.name=none",
        "-o",
        "cut.min_seconds=4.5",
    )
    assert (code, told.split()[0]) == (0, "1")


def test_a_dry_run_shows_plan_and_films(tmp_path, capsys):
    footage.write(tmp_path / "in" / "a.mp4", footage.panning(30))
    code, told = data(capsys, "run", tmp_path / "in", "--out", tmp_path / "out", "--dry-run")
    assert code == 0
    assert "min_seconds: 2" in told
    assert "1 films in" in told
    assert not (tmp_path / "out").exists()
