"""Tables of every format and of both projects, and what is wrong with a row or a table."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image

from vader_core.data.examine import examine
from vader_core.data.tables import read_folder, read_table
from vader_core.errors import MissingDependencyError, VaderError
from vader_core.prompts import Shape
from vader_core.video import write_video

OPEN_SORA = [
    {"path": "a.mp4", "text": "one, two", "num_frames": 30, "height": 32, "width": 48, "aspect_ratio": 0.67,
     "fps": 10.0, "resolution": 1536},
    {"path": "b.mp4", "text": "three", "num_frames": 12, "height": 32, "width": 48, "aspect_ratio": 0.67,
     "fps": None, "resolution": 1536},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, write_clip):
    write_clip(tmp_path / "a.mp4", 30, 32, 48)
    write_clip(tmp_path / "b.mp4", 12, 32, 48)
    Image.new("RGB", (20, 10)).save(tmp_path / "c.png")
    return tmp_path


def as_csv(records):
    columns = list(records[0])
    rows = [
        ",".join('"' + str(row[name] if row[name] is not None else "") + '"' for name in columns)
        for row in records
    ]
    return "\n".join([",".join(columns), *rows]) + "\n"


def write(folder, suffix, records):
    path = folder / f"clips{suffix}"
    if suffix == ".csv":
        path.write_text(as_csv(records))
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in records) + "\n")
    elif suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_open_sora_columns_in_every_format(folder, suffix):
    first, second = read_table(write(folder, suffix, OPEN_SORA))
    assert (first.number, first.path, first.text, first.kind) == (1, folder / "a.mp4", "one, two", "video")
    assert first.shape == Shape(30, 32, 48, 10.0)
    assert second.shape == Shape(12, 32, 48, None)
    assert first.problem is None
    assert second.problem is None


def test_easyanimate_columns(folder):
    records = [
        {"file_path": "a.mp4", "text": "moves", "type": "video", "width": 48, "height": 32},
        {"file_path": str(folder / "c.png"), "text": "stands", "type": "image"},
    ]
    video, image = read_table(write(folder, ".json", records))
    assert (video.path, video.kind, video.shape) == (folder / "a.mp4", "video", None)
    assert (image.path, image.kind, image.shape) == (folder / "c.png", "image", None)
    assert [one.shape for one in examine([video, image])] == [Shape(30, 32, 48, 10.0), Shape(1, 10, 20)]


def test_paths_start_from_the_root(folder, tmp_path):
    table = tmp_path / "elsewhere.jsonl"
    table.write_text('{"video": "a.mp4", "text": "x"}')
    assert read_table(table, root=folder)[0].path == folder / "a.mp4"


def test_captions_beside_the_clips(folder):
    (folder / "a.txt").write_text("a caption\nin two lines\n")
    (folder / "c.txt").write_text("a picture")
    rows = {row.path.name: row for row in read_folder(folder)}
    assert rows["a.mp4"].text == "a caption in two lines"
    assert rows["b.mp4"].problem == "no caption"
    assert (rows["c.png"].text, rows["c.png"].kind) == ("a picture", "image")


def test_start_and_end_of_a_row(folder):
    records = [{"video": "a.mp4", "text": "x", "start": 1.0, "end": 2.0}, {"video": "a.mp4", "text": "y"}]
    part, whole = examine(read_table(write(folder, ".jsonl", records)))
    assert part.shape == Shape(10, 32, 48, 10.0)
    assert whole.shape == Shape(30, 32, 48, 10.0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"video": "missing.mp4", "text": "x"}, "no such file"),
        ({"video": "", "text": "x"}, "no file in column video"),
        ({"video": "a.mp4", "text": ""}, "no caption"),
        ({"video": "a.mp4", "text": "nan"}, "no caption"),
        ({"video": "a.mp4", "text": "x", "start": 2, "end": 1}, "start 2 s and end 1.0 s hold no clip"),
        ({"video": "a.mp4", "text": "x", "start": "soon"}, "start 'soon' is not a number"),
        ({"video": "a.mp4", "text": "x", "type": "sound"}, "type 'sound' is neither video nor image"),
        ({"video": "a.mp4", "text": "x", "type": "image"}, "type says image, but the file is a video"),
        ({"video": "clips.jsonl", "text": "x"}, ".jsonl is neither clip nor picture"),
        ({"video": "a.mp4", "text": "x", "start": 9.0}, "it ends before the clip begins: 9 s"),
    ],
)  # fmt: skip
def test_a_bad_row_says_why(folder, row, said):
    (found,) = examine(read_table(write(folder, ".jsonl", [row])))
    assert found.problem == said
    assert found.unreadable == (said == "no such file")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "path,text\n", "it has no rows"),
        ("a.csv", "name,text\na.mp4,x\n", "no column names the file; use one of video, path, file_path"),
        ("a.csv", "path,video,text\na.mp4,b.mp4,x\n", "the columns video and path say the same"),
        ("a.csv", "path,text\na.mp4,x,y\n", "a row has more cells than the header"),
        ("a.jsonl", "{}\n[1]\n", "line 2 is not an object"),
        ("a.jsonl", "{\n", "line 1 is not JSON"),
        ("a.json", "{}", "a JSON table is a list of objects, not dict"),
        ("a.json", "", "the file is not JSON"),
        ("a.parquet", "no", "not a Parquet file"),
        ("a.xlsx", "", "'.xlsx' is not read; allowed are .csv, .jsonl, .json, .parquet"),
        ("a.csv", b"\xff\xfe\x00", "not a CSV file in UTF-8"),
    ],
)
def test_a_bad_table_says_why(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(VaderError, match=said.replace("(", r"\(")):
        read_table(path)


def test_a_table_or_folder_that_is_not_there(tmp_path):
    with pytest.raises(VaderError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(VaderError, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(VaderError, match="neither a clip"):
        read_folder(tmp_path)


def test_parquet_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(MissingDependencyError, match="pip install pyarrow"):
        read_table(tmp_path / "a.parquet")


def test_a_batch_that_was_sampled_is_a_table(tmp_path):
    entries = []
    for seed in (0, 1):
        entry = {"file": f"00-a-red-ball-seed{seed}.mp4", "prompt": "a red ball", "seed": seed, "base": False}
        write_video(torch.zeros(2, 3, 16, 16), tmp_path / entry["file"], 8)
        entries.append({**entry, "settings": {"video": {"height": 16}}, "scores": {}, "image": None})
    (tmp_path / "prompts.json").write_text(json.dumps(entries))
    rows = read_table(tmp_path / "prompts.json")
    assert [(row.path.name, row.text, row.problem) for row in rows] == [
        (entry["file"], "a red ball", None) for entry in entries
    ]
    both = tmp_path / "both.csv"
    both.write_text(f"path,file,text\n{entries[1]['file']},a word,a blue ball\n")
    assert read_table(both)[0].path.name == entries[1]["file"]
