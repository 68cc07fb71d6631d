"""Scenes are found, spans chosen, and clips written exact to the frame."""

from __future__ import annotations

import footage
import numpy as np
import pytest
from vader_data.components import component
from vader_data.cutting import cut
from vader_data.errors import ClipError
from vader_data.manifest import new_row
from vader_data.plan import CutOptions
from vader_data.probe import probe
from vader_data.reading import read_frames
from vader_data.scenes import bounded
from vader_data.spans import Span, spans, whole_seconds
from vader_data.stages import cut_rows, film_rows


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return footage.write(tmp_path_factory.mktemp("counted") / "counted.mp4", footage.numbered(200))


def numbers(path):
    facts = probe(path)
    return [footage.number_of(frame) for frame in read_frames(path, range(facts.num_frames))]


def test_a_span_is_written_frame_by_frame(counted, tmp_path):
    written = cut(counted, Span(37, 121), tmp_path / "clip.mp4", CutOptions())
    assert (written.num_frames, written.fps, written.height, written.width) == (84, 25.0, 96, 160)
    assert numbers(tmp_path / "clip.mp4") == list(range(37, 121))
    assert probe(tmp_path / "clip.mp4").fps == 25.0
    before, after = read_frames(counted, [60]), read_frames(tmp_path / "clip.mp4", [23])
    assert np.abs(before.astype(int) - after).mean() < 2


@pytest.mark.parametrize(
    ("fps", "wanted"),
    [
        (50, [n for n in range(100, 110) for _ in (0, 1)]),
        (12.5, [100, 102, 104, 106, 108]),
        (25, range(100, 110)),
    ],
)
def test_at_another_rate_each_frame_is_the_one_that_the_film_shows_then(counted, tmp_path, fps, wanted):
    written = cut(counted, Span(100, 110), tmp_path / "clip.mp4", CutOptions(fps=fps))
    assert numbers(tmp_path / "clip.mp4") == list(wanted)
    assert (written.num_frames, written.fps) == (len(wanted), fps)


def test_sizes_are_even_and_nothing_is_enlarged_unasked(counted, tmp_path):
    smaller = cut(counted, Span(0, 5), tmp_path / "a.mp4", CutOptions(shorter_side=48))
    assert (smaller.height, smaller.width) == (48, 80)
    same = cut(counted, Span(0, 5), tmp_path / "b.mp4", CutOptions(shorter_side=720))
    assert (same.height, same.width) == (96, 160)
    larger = cut(counted, Span(0, 5), tmp_path / "c.mp4", CutOptions(shorter_side=180, enlarge=True))
    assert (larger.height, larger.width) == (180, 300)
    assert probe(tmp_path / "c.mp4").width == 300


def test_a_film_that_breaks_off_leaves_no_clip(counted, tmp_path):
    data = counted.read_bytes()
    broken = tmp_path / "broken.mkv"
    footage.write(tmp_path / "whole.mkv", footage.panning(200))
    data = (tmp_path / "whole.mkv").read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    count = probe(broken).num_frames
    assert 0 < count < 200
    with pytest.raises(ClipError):
        cut(broken, Span(count - 10, count + 20), tmp_path / "clip.mp4", CutOptions())
    assert not (tmp_path / "clip.mp4").exists()


# -- spans -------------------------------------------------------------------------------------------------


def test_a_scene_shorter_than_the_detectors_shortest_is_a_row_of_its_own():
    found = spans([0, 100, 108, 200], 200, 25.0, CutOptions(), shortest=10)
    assert found == [Span(0, 100), Span(100, 108, "a scene of fewer than 10 frames"), Span(108, 200)]


def test_long_scenes_are_split_or_lose_their_end():
    assert spans([], 250, 10.0, CutOptions(min_seconds=3, max_seconds=10)) == [
        Span(0, 100),
        Span(100, 200),
        Span(200, 250),
    ]
    assert spans([], 230, 10.0, CutOptions(min_seconds=3, max_seconds=10))[-1].reason
    assert spans([], 250, 10.0, CutOptions(max_seconds=10, longer="beginning")) == [Span(0, 100)]


def test_upstream_measures_an_uncut_film_at_25_frames_per_second():
    """A film of 10 frames per second and 23 s stays whole; one of 60 is cut every 4.2 s."""
    upstream = CutOptions(min_seconds=3, max_seconds=10, uncut_at_25_fps=True)
    assert spans([], 230, 10.0, upstream) == [Span(0, 230)]
    assert [span.end - span.start for span in spans([], 1000, 60.0, upstream)][:3] == [250, 250, 250]
    # a piece that ends exactly at the last point ends there, and not at the film's end
    assert spans([], 501, 60.0, upstream) == [Span(0, 250), Span(250, 500)]
    assert [span.end for span in spans([], 1000, 60.0, CutOptions(min_seconds=3, max_seconds=10))] == [
        600,
        1000,
    ]


def test_whole_seconds_may_leave_nothing():
    assert whole_seconds(Span(3, 9), 25.0, 100).reason


# -- detectors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cascade", "content", "adaptive"])
def test_a_short_scene_is_found_and_fast_motion_is_not_cut_to_pieces(tmp_path, name):
    film = footage.write(tmp_path / "film.mp4", footage.scenes(60, 50, 8, 82))
    facts = probe(film)
    assert component("detector", name).make({}).boundaries(film, facts) == [0, 60, 110, 118, 200]
    fast = footage.write(tmp_path / "fast.mp4", footage.panning(60, speed=12, contrast=110))
    assert component("detector", name).make({}).boundaries(fast, probe(fast)) == []


def test_as_upstream_it_is_swallowed(tmp_path):
    film = footage.write(tmp_path / "film.mp4", footage.scenes(60, 50, 8, 82))
    found = component("detector", "adaptive").make({"merge_short_scenes": True}).boundaries(film, probe(film))
    assert found == [0, 60, 110, 200]


# -- the stage ---------------------------------------------------------------------------------------------


def test_rows_of_good_and_bad_films(tmp_path):
    footage.write(tmp_path / "in" / "a" / "good.mp4", footage.scenes(50, 60))
    (tmp_path / "in" / "bad.mp4").write_bytes(b"nothing")
    films = [tmp_path / "in" / "a" / "good.mp4", tmp_path / "in" / "bad.mp4"]
    detector = component("detector", "adaptive").make({})
    rows = cut_rows(film_rows(films, tmp_path / "in"), detector, CutOptions(min_seconds=2.1), tmp_path)
    assert [row["id"] for row in rows] == ["a/good.mp4#0-50", "a/good.mp4#50-110", "bad.mp4"]
    short, kept, bad = rows
    assert (short["reject_stage"], short["reject_reason"]) == ("cut", "shorter than 2.1 s")
    assert short["path"] is None
    assert (kept["start"], kept["end"], kept["duration"]) == (2.0, 4.4, 2.4)
    assert probe(tmp_path / kept["path"]).num_frames == kept["num_frames"] == 60
    assert "cannot be decoded" in bad["reject_reason"]


def test_spans_are_left_in_their_films(tmp_path):
    film = footage.write(tmp_path / "film.mp4", footage.scenes(50, 60))
    detector = component("detector", "adaptive").make({})
    rows = cut_rows(film_rows([film], tmp_path), detector, CutOptions(write="spans"), tmp_path / "out")
    assert [row["path"] for row in rows] == [None, None]
    assert not (tmp_path / "out").exists()


def test_a_detector_of_somebody_elses_that_fails_is_a_row(tmp_path):
    film = footage.write(tmp_path / "film.mp4", footage.panning(10))

    class Broken:
        shortest = 0

        def boundaries(self, path, probe):
            raise RuntimeError("no idea")

    rows = cut_rows(film_rows([film], tmp_path), Broken(), CutOptions(), tmp_path)
    assert [(row["type"], row["reject_reason"]) for row in rows] == [("video", "RuntimeError: no idea")]
    assert bounded([], 10) == []
    assert new_row()["reject_reason"] is None
