"""Films are read exact to the frame, wherever one begins, whatever their rate and rotation."""

from __future__ import annotations

import os

import av
import footage
import numpy as np
import pytest
from vader_data.clips import frames_of
from vader_data.errors import ClipError
from vader_data.probe import films, probe
from vader_data.reading import read_frames


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return footage.write(tmp_path_factory.mktemp("counted") / "counted.mp4", footage.numbered(600), gop=50)


def test_every_frame_is_the_one_that_was_asked_for(counted):
    assert probe(counted).num_frames == 600
    for indices in ([0], [599], [1, 299, 598], [560, 3, 3, 280]):
        assert [footage.number_of(frame) for frame in read_frames(counted, indices)] == indices


def test_a_span_counts_from_its_own_beginning(counted):
    found = read_frames(counted, [0, 7, 39], start=320, end=360)
    assert [footage.number_of(frame) for frame in found] == [320, 327, 359]
    with pytest.raises(ClipError, match="frame 40 was asked for, but the clip has 40"):
        read_frames(counted, [40], start=320, end=360)


def test_far_frames_are_reached_by_seeking(counted, monkeypatch):
    from vader_data import reading

    reading.DECODING.take()
    read_frames(counted, [590])
    _, yielded = reading.DECODING.take()
    assert yielded == 1


def test_a_film_of_varying_rate_is_read_by_its_own_times(tmp_path):
    times = np.cumsum([0, *([20] * 10), *([100] * 10), *([40] * 19)]).tolist()
    path = footage.write(tmp_path / "varying.mp4", footage.numbered(40), times=times)
    facts = probe(path)
    assert facts.num_frames == 40
    assert facts.seconds(10) == pytest.approx(0.2, abs=1e-3)
    assert facts.seconds(20) == pytest.approx(1.2, abs=1e-3)
    assert [footage.number_of(frame) for frame in read_frames(path, [5, 15, 39])] == [5, 15, 39]


def test_a_file_without_times_is_read_by_counting(tmp_path):
    path = footage.write(tmp_path / "raw.h264", footage.numbered(30), gop=10)
    assert probe(path).num_frames == 30
    assert [footage.number_of(frame) for frame in read_frames(path, [0, 17, 29])] == [0, 17, 29]


def test_a_phones_film_stands_upright(tmp_path):
    upright = footage.write(tmp_path / "upright.mp4", footage.panning(10))
    turned = tmp_path / "turned.mov"
    _with_rotation(upright, turned, 90)
    facts = probe(turned)
    assert (facts.height, facts.width) == (160, 96)
    frame = read_frames(turned, [0])[0]
    assert frame.shape == (160, 96, 3)
    plain = read_frames(upright, [0])[0]
    same = [np.abs(np.rot90(plain, turns).astype(int) - frame).mean() for turns in (1, 3)]
    assert same[(facts.turns - 1) // 2] < 1
    assert max(same) > 10


def _with_rotation(source, target, degrees):
    """Copy a film and turn the matrix in its track header."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    one, matrix = 1 << 16, {90: (0, 1, -1, 0)}[degrees]
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[place + offset : place + offset + 4] = (value * one & 0xFFFFFFFF).to_bytes(4, "big")
    target.write_bytes(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be decoded"), (b"not a film at all" * 50, "cannot be decoded")],
)
def test_what_is_no_film_is_named(tmp_path, content, message):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipError, match=message):
        probe(path)
    with pytest.raises(ClipError, match="No such file"):
        probe(tmp_path / "absent.mp4")


def test_a_playlist_leads_to_no_other_file(tmp_path):
    footage.write(tmp_path / "private.mp4", footage.numbered(3))
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile private.mp4\n")
    with pytest.raises(ClipError, match="none of the containers"):
        probe(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "film.mp4")
    with pytest.raises(ClipError, match="not a regular file"):
        probe(tmp_path / "film.mp4")


def test_a_postscript_picture_starts_no_other_program(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ClipError, match="none of PNG"):
        frames_of({"type": "image", "path": "a.png"}, [0], tmp_path)


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("mpeg", "mpeg1video"),
        ("mpegts", "mpeg2video"),
        ("asf", "wmv2"),
        ("flv", "flv"),
        ("avi", "mpeg4"),
        ("matroska", "mpeg4"),
    ],
)
def test_films_of_every_container_are_read_by_content(tmp_path, form, codec):
    path = tmp_path / "film"
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    assert probe(path).num_frames == 5


def test_sound_alone_is_no_film(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ClipError, match="there is no video in it"):
        probe(path)


def test_films_are_found_below_a_folder_in_order(tmp_path):
    for name in ("b/two.mov", "a.mp4", "b/one.MKV", ".hidden/three.mp4", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(film.relative_to(tmp_path)) for film in films(tmp_path)] == [
        "a.mp4",
        "b/one.MKV",
        "b/two.mov",
    ]
