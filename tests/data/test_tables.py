"""Manifests and exports: what is written is what is read, by us and by trainers."""

from __future__ import annotations

import csv
import json
import tarfile

import footage
import pyarrow.parquet as pq
import pytest
from vader_data.exports import write_exports
from vader_data.manifest import new_row, ordered, read_manifest, rejected, write_manifest

from vader_core.errors import VaderError


@pytest.fixture
def rows(tmp_path):
    found = []
    for number, text in enumerate(("a wall, red", None, 'say "wall"')):
        path = f"clips/{number}.mp4"
        footage.write(tmp_path / path, footage.panning(4, seed=number))
        row = new_row(
            id=f"film.mp4#{number}-4",
            type="video",
            path=path,
            source="/films/film.mp4",
            start_frame=number,
            end_frame=4,
            start=0.5,
            end=2.0,
            num_frames=4,
            fps=25.0,
            width=160,
            height=96,
            duration=0.16,
            text=text,
        )
        found.append({**row, "aes": 5.25 + number})
    found[1] = rejected(found[1], "filter aes", "aes below 6")
    return found


def test_a_manifest_comes_back_as_it_was(rows, tmp_path):
    rows[0]["embedding"] = [0.5, 0.25]
    write_manifest(tmp_path / "manifest.parquet", rows, ("aes",), {"plan": {"preset": "plain"}})
    found = read_manifest(tmp_path)
    assert found.rows == rows
    assert (found.scores, found.facts) == (("aes",), {"plan": {"preset": "plain"}})
    assert [row["id"] for row in found.kept()] == ["film.mp4#0-4", "film.mp4#2-4"]
    columns = pq.read_table(tmp_path / "manifest.parquet").column_names
    assert columns[:4] == ["id", "type", "path", "source"]
    assert columns[-1] == "reject_reason"


def test_a_first_reason_stays(rows):
    assert rejected(rows[1], "dedup", "the same")["reject_reason"] == "aes below 6"


def test_what_is_no_manifest(tmp_path, rows):
    with pytest.raises(VaderError, match="no such manifest"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.parquet").write_text("hello")
    with pytest.raises(VaderError, match="not a readable Parquet file"):
        read_manifest(tmp_path)
    import pyarrow

    pq.write_table(pyarrow.table({"path": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(VaderError, match="not a manifest: the column 'id' is missing"):
        read_manifest(tmp_path / "other.parquet")
    with pytest.raises(VaderError, match="has the name of another column"):
        write_manifest(tmp_path / "x.parquet", rows, ("text",))


def test_order_is_by_film_and_span():
    rows = [
        new_row(id="b", source="b", start_frame=0, end_frame=1),
        new_row(id="a#9@middle", source="a", start_frame=9, end_frame=10),
        new_row(id="a#0", source="a", start_frame=0, end_frame=20),
    ]
    assert [row["id"] for row in ordered(rows)] == ["a#0", "a#9@middle", "b"]


def test_exports_hold_what_is_kept(rows, tmp_path):
    written = write_exports(tmp_path, rows, ["opensora_csv", "easyanimate_json", "webdataset"])
    table = list(csv.DictReader((tmp_path / "opensora.csv").open()))
    assert [row["path"] for row in table] == ["clips/0.mp4", "clips/2.mp4"]
    assert table[0]["aspect_ratio"] == "0.6"
    assert (table[1]["text"], table[1]["aes"]) == ('say "wall"', "7.25")
    entries = json.loads((tmp_path / "easyanimate.json").read_text())
    assert entries[0] == {"file_path": "clips/0.mp4", "text": "a wall, red", "type": "video"}
    with tarfile.open(written[2] / "clips-00000.tar") as tar:
        assert tar.getnames() == [
            f"{key}.{end}" for key in ("00000000", "00000001") for end in ("mp4", "txt", "json")
        ]
        assert tar.extractfile("00000001.mp4").read() == (tmp_path / "clips/2.mp4").read_bytes()
        assert tar.extractfile("00000000.txt").read() == b"a wall, red"
        assert json.loads(tar.extractfile("00000000.json").read())["aes"] == 5.25
    before = (written[2] / "clips-00000.tar").read_bytes()
    write_exports(tmp_path, rows, ["webdataset"])
    assert (written[2] / "clips-00000.tar").read_bytes() == before


def test_spans_are_exported_with_their_times(rows, tmp_path):
    spans = [{**row, "path": None} for row in rows]
    write_exports(tmp_path, spans, ["opensora_csv", "easyanimate_json"])
    table = list(csv.DictReader((tmp_path / "opensora.csv").open()))
    assert (table[0]["path"], table[0]["start"], table[0]["end"]) == ("/films/film.mp4", "0.5", "2.0")
    assert table[0]["num_frames"] == ""
    assert json.loads((tmp_path / "easyanimate.json").read_text())[0]["start"] == 0.5
    with pytest.raises(VaderError, match=r"cut\.write=files"):
        write_exports(tmp_path, spans, ["webdataset"])


def test_nothing_kept_is_an_empty_table(tmp_path, rows):
    write_exports(tmp_path, [rows[1]], ["opensora_csv", "easyanimate_json", "webdataset"])
    assert (tmp_path / "opensora.csv").read_text().startswith("path,num_frames")
    assert json.loads((tmp_path / "easyanimate.json").read_text()) == []
