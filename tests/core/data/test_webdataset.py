"""A webdataset's clips are read within their archives, as if they lay beside them."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from vader_core.archives import members, open_bytes
from vader_core.data.clips import probe
from vader_core.data.tables import read_table
from vader_core.errors import VaderError
from vader_core.pictures import read_picture
from vader_core.video import read_video, write_video


@pytest.fixture
def clip(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "clip.mp4"
    write_video(torch.rand(7, 3, 32, 48), path, 8.0)
    return path


def written(path, **files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def picture():
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture
def archive(tmp_path, clip):
    facts = json.dumps(
        {"num_frames": 7, "height": 32, "width": 48, "fps": 8.0, "text": "of the json"}
    ).encode()
    return written(
        tmp_path / "clips-00000.tar",
        a__mp4=clip.read_bytes(),
        a__txt=b"a film",
        a__json=facts,
        b__png=picture(),
        b__txt=b"a picture",
        c__mp4=clip.read_bytes()[:400],
        c__txt=b"torn",
        d__txt=b"nothing to see",
        e__mp4=clip.read_bytes(),
        e__json=facts,
    )


def test_clips_pictures_and_their_words_are_found(archive):
    rows = {row.path.name: row for row in read_table(archive)}
    assert {name: (row.text, row.kind, row.problem) for name, row in rows.items()} == {
        "a.mp4": ("a film", "video", None),
        "b.png": ("a picture", "image", None),
        "c.mp4": ("torn", "video", None),
        "d.txt": ("", "video", "0 clips and pictures in one sample, not one"),
        "e.mp4": ("of the json", "video", None),
    }
    assert rows["a.mp4"].shape.frames == 7
    assert rows["c.mp4"].shape is None
    assert read_table(archive.parent)[0].path == rows["a.mp4"].path


def test_what_is_read_is_the_file_itself(archive, clip):
    inside = archive / "a.mp4"
    assert torch.equal(read_video(inside), read_video(clip))
    assert probe(inside, check=True) == probe(clip, check=True)
    assert read_picture(archive / "b.png").size == (20, 10)
    with open_bytes(inside) as stream:
        assert stream.read() == clip.read_bytes()
        stream.seek(-10, 2)
        assert stream.read(20) == clip.read_bytes()[-10:]
    with pytest.raises(VaderError):
        probe(archive / "c.mp4", check=True)
    with pytest.raises(VaderError, match="no such file"):
        read_video(archive / "none.mp4")


def test_an_archive_that_is_none_is_one_message(tmp_path, archive):
    (tmp_path / "x.tar").write_bytes(b"no archive at all" * 100)
    (tmp_path / "y.tar").write_bytes(archive.read_bytes()[:700])
    (tmp_path / "z.tar").mkdir()
    for name in ("x.tar", "y.tar", "z.tar", "none.tar"):
        with pytest.raises(VaderError, match=name):
            read_table(tmp_path / name)


def test_links_and_odd_names_lead_nowhere(tmp_path, clip):
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, str(clip)
        tar.addfile(link)
        member = tarfile.TarInfo("../../b.mp4")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    assert list(members(path)) == ["../../b.mp4"]
    (row,) = read_table(path)
    assert row.problem is not None
