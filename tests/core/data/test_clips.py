"""Clips are read frame by frame where they were asked for, and bad files are said to be bad."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from vader_core.data.clips import probe, read_frames
from vader_core.data.crops import cover_smooth, cover_video
from vader_core.data.examine import within
from vader_core.data.frame_masks import SeededDraws
from vader_core.data.frame_rule import FrameRule
from vader_core.data.reader import Reader
from vader_core.errors import VaderError
from vader_core.prompts import Clip, Shape


def test_a_header_says_what_a_file_holds(clip):
    assert probe(clip) == probe(clip, check=True) == Shape(30, 32, 48, 10.0)


@pytest.mark.parametrize("indices", [[0], [0, 1, 2], [29], [7, 8, 20], [12, 12, 13], list(range(30))])
def test_the_frames_that_were_asked_for(clip, numbers, indices):
    pixels = torch.stack(list(read_frames(clip, indices, rate=10)))
    assert pixels.shape == (len(indices), 3, 32, 48)
    assert pixels.dtype == torch.uint8
    assert numbers(pixels) == indices


def test_seconds_into_the_file(clip, numbers):
    assert numbers(torch.stack(list(read_frames(clip, [0, 5], rate=10, start=1.2)))) == [12, 17]


def test_a_frame_beyond_the_end(clip):
    with pytest.raises(VaderError, match=r"it ends at 3.00 s, before the frame at 3.00 s"):
        list(read_frames(clip, [28, 30], rate=10))


@pytest.mark.parametrize(("crop", "whole"), [("smooth", cover_smooth), ("open_sora", cover_video)])
def test_frames_cut_one_by_one_are_those_of_the_whole_clip(clip, crop, whole):
    rule = FrameRule("open_sora", 3, 24.0)
    read = Reader(rule, crop).read(Clip(clip), 8, (20, 28), SeededDraws(4), probe(clip))
    chosen = rule.choose(probe(clip), 8, SeededDraws(4))
    assert torch.equal(read, whole(torch.stack(list(read_frames(clip, chosen, rate=10))), (20, 28)))


def test_a_picture_is_a_clip_of_one_frame(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 10), (255, 0, 0)).save(path)
    assert probe(path) == Shape(1, 10, 20)
    (pixels,) = read_frames(path, [0], rate=24)
    assert pixels.shape == (3, 10, 20)
    assert pixels[:, 0, 0].tolist() == [255, 0, 0]


def test_a_picture_stands_as_the_camera_was_held(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    assert probe(path) == Shape(1, 20, 10)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "it cannot be read"), (b"not a video" * 99, "it cannot be read")],
)
def test_a_file_that_is_no_video(tmp_path, content, said):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(VaderError, match=said):
        probe(path)


def test_a_file_that_was_cut_off(clip):
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) * 2 // 3])
    assert probe(clip).frames == 30
    with pytest.raises(
        VaderError, match=r"the header promises 30 frames, but the file holds \d+|cannot be read"
    ):
        probe(clip, check=True)
    with pytest.raises(VaderError, match=r"it ends at|it cannot be read"):
        list(read_frames(clip, [0, 29], rate=10))


def test_start_and_end_bound_the_clip():
    whole = Shape(100, 4, 4, fps=10)
    assert within(whole, 0.0, None) == whole
    assert within(whole, 2.0, 4.5).frames == 25
    assert within(whole, 2.0, 99.0).frames == 80
    assert within(whole, 10.0, None) is None


@pytest.mark.parametrize("rule", [FrameRule(interval=2), FrameRule(fps=5), FrameRule("open_sora", 2)])
def test_every_rule_reads_inside_the_clip(clip, numbers, rule):
    reader = Reader(rule)
    seen = set()
    for seed in range(20):
        pixels = reader.read(Clip(clip, 0.5, 2.5), 6, (16, 24), SeededDraws(seed))
        found = numbers(pixels)
        assert pixels.shape == (6, 3, 16, 24)
        assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1
        assert found == sorted(found)
        assert found[0] >= 5
        assert found[-1] < 25
        assert len(set(found)) == 6
        seen.add(found[0])
    assert len(seen) > 3


def test_the_even_rule_reaches_every_frame(clip, numbers):
    reader, seen = Reader(FrameRule(interval=1)), set()
    for seed in range(60):
        seen.update(numbers(reader.read(Clip(clip, 2.0, 3.0), 4, (32, 48), SeededDraws(seed))))
    assert seen == set(range(20, 30))


def test_easyanimate_leaves_out_both_ends(clip, numbers):
    reader, seen = Reader(FrameRule("easyanimate", 1)), set()
    for seed in range(40):
        seen.update(numbers(reader.read(Clip(clip), 5, (32, 48), SeededDraws(seed))))
    assert min(seen) >= 2
    assert max(seen) <= 26


def test_a_faster_reading_repeats_frames(clip, numbers):
    rule = FrameRule(fps=20)
    assert rule.repeats(Shape(30, 32, 48, 10.0))
    found = numbers(Reader(rule).read(Clip(clip, 1.0, 1.5), 10, (32, 48), SeededDraws(0)))
    assert found == [10, 10, 11, 11, 12, 12, 13, 13, 14, 14]


def test_a_clip_that_is_too_short_is_named(clip):
    with pytest.raises(VaderError, match=r"clip\.mp4: 5 frames are too few for 6"):
        Reader(FrameRule(interval=1)).read(Clip(clip, 1.0, 1.5), 6, (32, 48), SeededDraws(0))


def test_rules_that_count_frames_need_an_interval():
    with pytest.raises(VaderError, match=r"data\.frame_rule=open_sora counts frames"):
        FrameRule("open_sora")
