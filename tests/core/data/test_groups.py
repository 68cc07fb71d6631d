"""EasyAnimate's batches: one kind and nearly one shape to a batch, and nothing lost over the passes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vader_core.data.frame_rule import FrameRule
from vader_core.data.groups import InGroups
from vader_core.data.options import GroupOptions
from vader_core.geometry import Geometry
from vader_core.prompts import Clip, Prompt, Shape

SHAPES = [
    *[Shape(1, 512, 512, None)] * 3,
    *[Shape(200, 384, 672, 24.0)] * 4,
    Shape(40, 384, 672, 24.0),  # 32 frames of it are used: three chunks
    Shape(200, 672, 384, 24.0),
    Shape(5, 384, 672, 24.0),  # 4 frames: one is used
]


def plan(batch_size=2, most=144, **options):
    clips = [Prompt(f"clip {n}", video=Clip(Path(f"{n}.mp4"))) for n in range(len(SHAPES))]
    return InGroups(
        clips,
        SHAPES,
        range(1, len(SHAPES) + 1),
        FrameRule("easyanimate", 1, 24.0),
        options=GroupOptions(**options),
        geometry=Geometry(384, 672, most, 24.0),
        batch_size=batch_size,
        seed=3,
    )


def test_a_batch_is_of_one_kind_and_shape():
    made = plan()
    for iteration in range(40):
        portion = made.at(iteration, 0, 1)
        groups = {(SHAPES[clip].frames == 1, SHAPES[clip].height) for clip in portion.clips}
        assert len(groups) == 1
        (image, height) = groups.pop()
        assert (portion.geometry.height, portion.geometry.width) == {
            512: (512, 512), 384: (384, 672), 672: (672, 384)
        }[height]  # fmt: skip
        shortest = min({1: 1, 200: 144, 40: 27, 5: 1}[SHAPES[clip].frames] for clip in portion.clips)
        assert portion.geometry.num_frames == shortest
        assert image == (height == 512)


def test_every_clip_comes_equally_often_over_the_passes():
    made = plan()
    counted = Counter(clip for iteration in range(200) for clip in made.at(iteration, 0, 1).clips)
    assert set(counted) == set(range(len(SHAPES)))
    assert max(counted.values()) - min(counted.values()) <= 2


def test_processes_share_the_batches_and_any_place_can_be_asked_for():
    one, two = plan(), plan()
    alone = [one.at(iteration, 0, 1) for iteration in range(60)]
    together = [two.at(iteration, rank, 2) for iteration in range(30) for rank in range(2)]
    assert [portion.clips for portion in alone] == [portion.clips for portion in together]
    assert two.at(0, 0, 1) == alone[0]  # from the start again, past what is held
    assert len({sample for portion in alone for sample in portion.samples}) == 120


def test_frames_and_ratios_are_drawn():
    made = plan(batch_size=1, random_frames=True, random_ratio=True, side=256)
    portions = [made.at(iteration, 0, 1) for iteration in range(400)]
    videos = [portion.geometry for portion in portions if SHAPES[portion.clips[0]].frames == 200]
    full = sum(size.num_frames == 144 for size in videos) / len(videos)
    assert full == pytest.approx(0.9, abs=0.06)
    assert {size.num_frames for size in videos} <= {1, *range(9, 145, 9)}
    assert len({(size.height, size.width) for size in videos}) > 8
    assert all(size.height % 16 == size.width % 16 == 0 for size in videos)
    allowed = made.geometries()
    assert all(portion.geometry in allowed for portion in portions)


def test_repeats_and_what_is_dropped():
    counted = Counter(share.name.split()[0] for share in plan(video_repeat=2).shares())
    assert counted == {"image": 1, "video": 2}
    rows = {share.name: share.rows for share in plan(video_repeat=2).shares()}
    assert rows["image 1.0"] == 3
    assert sum(rows.values()) == 3 + 2 * 7
    none = plan(video_repeat=0)
    assert [none.why_dropped(clip) is None for clip in range(10)] == [True] * 3 + [False] * 7
    assert "repeat" in none.why_dropped(4)


def test_what_stands_in_is_of_the_same_group_and_long_enough():
    made = plan(batch_size=1)
    for iteration in range(20):
        portion = made.at(iteration, 0, 1)
        for other in portion.substitutes[0]:
            assert SHAPES[other].height == SHAPES[portion.clips[0]].height
            assert made._longest[other] >= portion.geometry.num_frames
