"""``vader data scan``: a table of a folder, which a run then reads without opening a file."""

from __future__ import annotations

import json
import shutil

import pytest

from vader_core.cli import run
from vader_core.data import examine as examination
from vader_core.data.examine import examine
from vader_core.data.tables import read_folder, read_table


@pytest.fixture
def folder(tmp_path, write_clip):
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4", 30, 32, 48)
    shutil.copy(tmp_path / "clips" / "a.mp4", tmp_path / "clips" / "b.mp4")
    for name in ("a", "b", "broken"):
        (tmp_path / "clips" / f"{name}.txt").write_text(f'the "{name}", of three')
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no")
    (tmp_path / "clips" / "silent.mp4").write_bytes((tmp_path / "clips" / "a.mp4").read_bytes())
    return tmp_path / "clips"


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_the_table_says_what_the_files_hold(folder, monkeypatch, capsys, suffix):
    table = folder.parent / f"clips.{suffix}"
    assert run(["data", "scan", str(folder), "--out", str(table)]) == 0
    said = capsys.readouterr().out
    assert "2 of 4 rows can be used" in said
    assert "32x48 (2)" in said
    assert "1  no caption: row 4 (silent.mp4)" in said
    assert "1  it cannot be read: row 3 (broken.mp4: it is none of mp4, mov" in said
    assert "clips/a.mp4" in table.read_text()

    def never(*_, **__):
        raise AssertionError("a file was opened")

    written = read_table(table)
    monkeypatch.setattr(examination, "probe", never)
    again = examine(written)
    monkeypatch.undo()
    straight = [one for one in examine(read_folder(folder)) if one.problem is None]
    assert [(one.row.path.resolve(), one.row.text, one.shape) for one in again] == [
        (one.row.path.resolve(), one.row.text, one.shape) for one in straight
    ]


def test_easyanimates_list_has_its_names(folder):
    table = folder.parent / "metadata_add_width_height.json"
    assert run(["data", "scan", str(folder), "--out", str(table)]) == 0
    first = json.loads(table.read_text())[0]
    names = {"file_path": "clips/a.mp4", "text": 'the "a", of three', "type": "video"}
    assert names | {"width": 48, "height": 32} == {key: first[key] for key in (*names, "width", "height")}


def test_another_ending_is_refused(folder, capsys):
    assert run(["data", "scan", str(folder), "--out", str(folder.parent / "clips.txt")]) == 2
    assert "use .csv, .json or .jsonl" in capsys.readouterr().err


def test_one_object(folder, capsys):
    assert run(["data", "scan", str(folder), "--json", "--check"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["usable"], found["frames"]) == (4, 2, {"30": 2})
    assert [row["number"] for row in found["bad"]] == [3, 4]


def test_an_unknown_command_of_the_group(capsys):
    assert run(["data", "scn"]) == 2
    assert "no command 'data scn'; did you mean 'scan'?" in capsys.readouterr().err
    assert run(["data", "scan", "nowhere"]) == 2
    assert "nowhere: no such file" in capsys.readouterr().err
