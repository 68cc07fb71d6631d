"""What a run learns from, said beforehand, equals a count by hand; and no clip is lost or comes twice."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from vader_core.data.buckets import Buckets
from vader_core.data.examine import examine
from vader_core.data.frame_rule import FrameRule
from vader_core.data.plan import InBuckets, OneSize
from vader_core.data.tables import read_folder
from vader_core.data.videos import Videos
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prompts import Clip, Prompt, Shape

LENGTHS = (8, 12, 20, 40, 70)
# Of 144p's pixels: too small, enough, enough and upright, enough and square.
SIZES = ((96, 160), (144, 256), (256, 144), (192, 192))
BUCKETS = {"144p": {8: (1.0, 4), 16: (1.0, 3), 32: (1.0, 2)}}


@pytest.fixture(scope="module")
def thousand(tmp_path_factory, write_clip_once):
    """980 good clips, 49 of each length and size, and 20 broken ones of four kinds."""
    folder = tmp_path_factory.mktemp("thousand")
    number = 0
    for frames in LENGTHS:
        for height, width in SIZES:
            first = write_clip_once(folder / f"{number:04}.mp4", frames, height, width)
            for _ in range(48):
                number += 1
                os.link(first, folder / f"{number:04}.mp4")
            number += 1
    good = (folder / "0979.mp4").read_bytes()
    broken = {"empty": b"", "noise": os.urandom(4096), "cut": good[: len(good) // 2], "text": b"hello " * 50}
    for kind, content in broken.items():
        for i in range(5):
            (folder / f"broken-{kind}-{i}.mp4").write_bytes(content)
    for path in list(folder.glob("*.mp4")):
        path.with_suffix(".txt").write_text(f"clip {path.stem}")
    return folder


@pytest.fixture(scope="module")
def examined(thousand):
    return examine(read_folder(thousand), check=True)


@pytest.mark.slow
def test_a_thousand_clips_in_buckets(examined):
    """By hand: sizes of 15,360 pixels are below 0.8 of 36,864; a clip needs more frames than its bucket."""
    source = Videos(examined)
    rule = FrameRule(interval=1)
    plan = InBuckets(
        source.clips(), source.shapes(), source.numbers, rule,
        buckets=Buckets(BUCKETS), geometry=Geometry(144, 256, 16, 8), seed=0,
    )  # fmt: skip
    summary = plan.summary(source.dropped)
    # 3 sizes x 49: 8 frames fit nowhere (8 > 8 is false), 12 -> 8, 20 -> 16, 40 and 70 -> 32.
    by_hand = {
        (frames, *size): 49 * lengths
        for size in ((144, 256), (256, 144), (192, 192))
        for frames, lengths in ((8, 1), (16, 1), (32, 2))
    }
    found = {(share.frames, share.height, share.width): share.rows for share in summary.shares}
    assert found == by_hand
    assert summary.rows == 1000
    assert summary.learned == 12 * 49
    assert {share.frames: share.batches for share in summary.shares} == {8: 13, 16: 17, 32: 49}
    assert len(summary.dropped) == 1000 - 12 * 49
    assert len(summary.unreadable) == 20
    reasons = dict(summary.reasons)
    assert reasons.pop("too small for every bucket") == 5 * 49
    assert reasons.pop("shorter than every bucket of its size") == 3 * 49
    assert sum(reasons.values()) == 20
    assert {row.path.rsplit("/", 1)[1].split("-")[0] for row in summary.unreadable} == {"broken"}
    table = summary.table()
    assert "588 of 1,000 rows are learned from, none is held out (data.held_out=N holds N out)" in table
    assert "412 rows are dropped:" in table
    assert "245  too small for every bucket: row" in table
    summary.check(0.05)
    with pytest.raises(VaderError, match=r"20 of 1,000 rows cannot be read.*unreadable_limit=0.01.*broken-"):
        summary.check(0.01)


@pytest.mark.slow
def test_a_thousand_clips_at_one_size(examined):
    source = Videos(examined, held_out=30)
    plan = OneSize(
        source.clips(), source.shapes(), source.numbers, FrameRule(interval=2),
        geometry=Geometry(64, 64, 10, 8), batch_size=4, seed=0,
    )  # fmt: skip
    summary = plan.summary(source.dropped, held_out=30)
    # ten frames at an interval of two need 19: 20, 40 and 70 frames have them, but for the clips held out
    assert summary.rows == 1000
    assert summary.learned + summary.reasons["too short"] == 980 - 30
    assert 588 - 30 <= summary.learned <= 588
    assert [share.name for share in summary.shares] == ["run"]


@pytest.mark.slow
def test_nothing_left_is_an_error(examined):
    source = Videos(examined)
    plan = OneSize(
        source.clips(), source.shapes(), source.numbers, FrameRule(interval=1),
        geometry=Geometry(64, 64, 500, 8), batch_size=4, seed=0,
    )  # fmt: skip
    with pytest.raises(VaderError, match=r"no row of the data can be learned from: too short \(980\)"):
        plan.summary(source.dropped).check(0.1)


# -- the order -------------------------------------------------------------------------------------------


def made(shapes, config=None, **changed):
    clips = [Prompt(str(n), video=Clip(f"{n}.mp4")) for n in range(len(shapes))]
    numbers = list(range(1, len(shapes) + 1))
    common = {"geometry": Geometry(144, 256, 8, 8), "seed": 3, **changed}
    if config is None:
        return OneSize(
            clips, shapes, numbers, FrameRule(interval=1), batch_size=common.pop("batch_size", 2), **common
        )
    return InBuckets(clips, shapes, numbers, FrameRule(interval=1), buckets=Buckets(config), **common)


MIXED = [Shape(frames, *size, 8.0) for frames in (9, 20, 40) for size in SIZES for _ in range(7)]


def taken(plan, iterations, world):
    return [plan.at(i, rank, world) for i in range(iterations) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_in_each_pass_every_clip_comes_once(world):
    plan = made(MIXED, BUCKETS)
    batches = plan._order.batches_in(0)
    seen = Counter()
    for portion in taken(plan, -(-batches // world), world)[:batches]:
        seen.update(portion.clips)
        sizes = {(MIXED[clip].height, MIXED[clip].width) for clip in portion.clips}
        assert sizes == {(portion.geometry.height, portion.geometry.width)}
        assert all(MIXED[clip].frames > portion.geometry.num_frames for clip in portion.clips)
    assert seen == Counter(clip for clip in range(len(MIXED)) if plan.why_dropped(clip) is None)


@pytest.mark.parametrize("config", [None, BUCKETS, {"144p": {8: (0.5, 4), 32: (0.3, 2)}}])
def test_the_order_is_a_function_of_the_place_in_the_run(config):
    """A resumed run, which asks for the middle first, sees what it would have seen."""
    whole = taken(made(MIXED, config), 100, 2)
    resumed = made(MIXED, config)
    assert [resumed.at(i, rank, 2) for i in range(60, 100) for rank in range(2)] == whole[120:]
    assert taken(made(MIXED, config), 100, 2) == whole
    assert taken(made(MIXED, config, seed=4), 100, 2) != whole


@pytest.mark.parametrize("config", [None, BUCKETS])
def test_every_sample_index_comes_once(config):
    samples = [sample for portion in taken(made(MIXED, config), 100, 2) for sample in portion.samples]
    assert samples == list(range(len(samples)))


def test_processes_share_the_stream_of_one_size():
    one = taken(made(MIXED, batch_size=4), 20, 1)
    two = taken(made(MIXED, batch_size=2), 20, 2)
    assert [clip for portion in one for clip in portion.clips] == [
        clip for portion in two for clip in portion.clips
    ]


def test_ranks_have_different_sizes():
    portions = taken(made(MIXED, BUCKETS), 50, 2)
    pairs = zip(portions[::2], portions[1::2], strict=True)
    assert any(left.geometry != right.geometry for left, right in pairs)


@pytest.mark.parametrize("config", [None, BUCKETS])
def test_substitutes_are_of_the_same_bucket(config):
    plan = made(MIXED, config)
    for portion in taken(plan, 20, 1):
        for clip, others in zip(portion.clips, portion.substitutes, strict=True):
            assert clip not in others
            assert len(set(others)) == len(others) > 0
            if config is not None:
                alike = {(MIXED[n].height, MIXED[n].width) for n in (clip, *others)}
                assert alike == {(portion.geometry.height, portion.geometry.width)}


def test_buckets_that_keep_nothing_end_the_run():
    with pytest.raises(VaderError, match="the buckets keep no clip"):
        made([Shape(4, 144, 256, 8.0)], BUCKETS).at(0, 0, 1)


@pytest.mark.parametrize(
    ("config", "rule", "said"),
    [
        ({}, "1.1", "the bucket configuration is empty"),
        ({"333p": {8: (1.0, 4)}}, "1.1", "unknown resolution '333p'"),
        ({"144p": {"many": (1.0, 4)}}, "1.1", "144p has 'many' frames"),
        ({"144p": {8: (1.5, 4)}}, "1.1", "keep probability 1.5 is not between 0 and 1"),
        ({"144p": {8: (1.0, 0)}}, "1.1", "batch size 0"),
        ({"144p": {8: (1.0, None)}}, "1.1", "needs a batch size"),
        ({"144p": {8: ((1.0, 0.5), 4)}}, "1.1", "or a pair under rule 1.2"),
        ({"144p": {8: 4}}, "1.1", r"4 is not \[keep probability, batch size\]"),
    ],
)
def test_a_bad_configuration_says_why(config, rule, said):
    with pytest.raises(VaderError, match=said):
        Buckets(config, rule)
    assert Buckets({"144p": {"8": ((1.0, 0.5), 4)}}, "1.2").slots[0].keep_frames == 0.5
