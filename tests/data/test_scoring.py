"""Scores: what moves, what is written, what a reward says; and what becomes of clips that have none."""

from __future__ import annotations

import footage
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from vader_data.components import component
from vader_data.contracts import Clip, Scorer
from vader_data.errors import ClipError
from vader_data.filtering import again, by_score, passes, why
from vader_data.manifest import new_row
from vader_data.plan import ScorerPlan
from vader_data.stages import score_rows

from vader_core.errors import MachineError, VaderError

TINY = {"weights": "random", "architecture": "tiny"}


def clip(frames, fps=25.0, text=""):
    return Clip("clip", frames, tuple(range(len(frames))), len(frames), fps, text)


def motion_of(frames, name="farneback", **options):
    return component("scorer", name).make(options).score([clip(frames)])[0]


def test_motion_is_the_speed_in_pixels_of_the_reference_size():
    moved = footage.panning(6, height=240, width=320, speed=3, contrast=110)
    assert motion_of(moved, native_pixels=True) == pytest.approx(3.0, rel=0.15)
    assert motion_of(moved) == pytest.approx(3.0 * 720 / 240, rel=0.15)
    assert motion_of(footage.panning(6, speed=0, contrast=110)) < 0.05


def test_motion_does_not_depend_on_the_size():
    import cv2

    large = footage.panning(5, height=480, width=640, speed=6, contrast=110)
    small = np.stack([cv2.resize(frame, (320, 240), interpolation=cv2.INTER_AREA) for frame in large])
    assert motion_of(small) == pytest.approx(motion_of(large), rel=0.15)
    native = [motion_of(frames, native_pixels=True) for frames in (small, large)]
    assert native[1] / native[0] == pytest.approx(2.0, rel=0.2)


def test_raft_runs_in_pixels_of_the_reference_size():
    frames = footage.panning(3, height=96, width=160)
    told = motion_of(frames, "raft", weights="random", size="small", side=128, iterations=2)
    native = motion_of(
        frames, "raft", weights="random", size="small", side=128, iterations=2, native_pixels=True
    )
    assert told > 0
    assert told == pytest.approx(native * 720 / 96, rel=1e-3)


def test_rafts_weights_are_a_file_of_torchvisions(tmp_path):
    from torchvision.models.optical_flow import raft_small

    frames = footage.panning(3)
    network = raft_small()
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    options = {"size": "small", "side": 128, "iterations": 2}
    found = motion_of(frames, "raft", weights=str(tmp_path / "raft.pth"), **options)
    assert found != motion_of(frames, "raft", weights="random", **options)
    with pytest.raises(VaderError, match="no such file"):
        component("scorer", "raft").make({"weights": str(tmp_path / "absent.pth")})
    with pytest.raises(VaderError, match="raft_large"):
        component("scorer", "raft").make({"weights": str(tmp_path / "raft.pth"), "size": "large"})


def written(text, size=(240, 427)):
    picture = Image.new("RGB", size[::-1], (90, 120, 90))
    ImageDraw.Draw(picture).text((40, 80), text, fill="white", font=ImageFont.load_default(48))
    return np.asarray(picture)[None]


def test_text_area_grows_with_the_text():
    scorer = component("scorer", "text_area").make({})
    none, some, more = (scorer.score([clip(written(text))])[0] for text in ("", "SALE", "SALE TODAY"))
    assert none == 0
    assert 0.02 < some < more < 0.3


def test_text_boxes_are_counted_in_one_frame():
    scorer = component("scorer", "text_boxes").make({})
    assert [scorer.indices(count, 8.0) for count in (4, 11, 99)] == [[3], [10], [10]]
    none, one, two = (scorer.score([clip(written(text))])[0] for text in ("", "SALE", "SALE\n\nTODAY"))
    assert (none, one, two) == (0, 1, 2)


def test_overlapping_boxes_count_once_and_nothing_counts_outside():
    from vader_data.text_area import covered

    box = [(0, 0), (49, 0), (49, 49), (0, 49)]
    assert covered(100, 100, [box, box]) == 0.25
    assert covered(100, 100, [[(-50, 0), (49, 0), (49, 49), (-50, 49)]]) == 0.25


def test_every_kind_of_reward_scores_clips():
    frames = footage.panning(20)
    for name, options, frames_wanted in (
        ("aesthetic", {"frames": "uniform", "count": 4}, [0, 5, 10, 15]),
        ("aesthetic", {"frames": "points"}, [2, 10, 18]),
        ("jpeg_size", {"frames": "middle"}, [10]),
        ("viclip", {}, None),
        ("vjepa", {}, None),
    ):
        own = {} if name == "jpeg_size" else TINY
        scorer = component("scorer", "reward").make({"reward": name, "options": own, **options})
        indices = scorer.indices(20, 25.0)
        if frames_wanted is not None:
            assert indices == frames_wanted
        one = Clip("a", frames[indices], tuple(indices), 20, 25.0, "a red wall")
        two = Clip("b", frames[indices][:, :, ::-1].copy(), tuple(indices), 20, 25.0, "a red wall")
        scores = scorer.score([one, two, one])
        assert scores[0] == pytest.approx(scores[2], rel=1e-5)
        assert all(np.isfinite(scores))


def test_a_rewards_score_is_the_rewards():
    from vader_core.prompts import Prompt
    from vader_core.randomness import Randomness
    from vader_core.registry import load_registry

    frames = footage.panning(8)
    scorer = component("scorer", "reward").make({"reward": "jpeg_size", "frames": "all"})
    reward = (
        load_registry().get("reward", "jpeg_size").make({}, device=torch.device("cpu"), dtype=torch.float32)
    )
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
    wanted = float(reward(video, [Prompt("")], Randomness(0)).score)
    assert scorer.score([clip(frames)])[0] == pytest.approx(wanted)


def test_clips_of_different_sizes_are_one_batch():
    scorer = component("scorer", "reward").make({"reward": "jpeg_size", "frames": "middle"})
    clips = [clip(footage.panning(1, height=height)) for height in (64, 96, 64)]
    assert len(set(scorer.score(clips))) == 2


# -- the stage ---------------------------------------------------------------------------------------------


class Told(Scorer):
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, answer, batch_size=1):
        self.answer, self.batch_size, self.asked = answer, batch_size, []

    def indices(self, num_frames, fps):
        return [0]

    def score(self, clips):
        self.asked.append([one.id for one in clips])
        return [self.answer(one) for one in clips]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for number in range(4):
        footage.write(folder / f"{number}.mp4", footage.panning(5, seed=number))
        found.append(
            new_row(
                id=str(number),
                type="video",
                path=f"{number}.mp4",
                source="film",
                start_frame=0,
                end_frame=5,
                num_frames=5,
                fps=25.0,
                width=160,
                height=96,
            )
        )
    return folder, found


def test_a_rejected_clip_is_not_scored_further(rows):
    folder, found = rows
    first, second = Told(lambda one: float(one.id)), Told(lambda one: 1.0)
    plans = {
        "first": (first, ScorerPlan(scorer="x", min=2)),
        "second": (second, ScorerPlan(scorer="x")),
    }
    done = score_rows(found, plans, folder)
    assert [row["reject_reason"] for row in done] == ["first below 2", "first below 2", None, None]
    assert second.asked == [["2"], ["3"]]
    assert [row.get("second") for row in done] == [None, None, 1.0, 1.0]
    again_ = score_rows(done, plans, folder)
    assert (again_, second.asked) == (done, [["2"], ["3"]])


def test_one_bad_clip_of_a_batch_harms_no_other(rows):
    folder, found = rows

    def answer(one):
        if one.id == "1":
            raise ValueError("cannot be seen")
        return 5.0

    done = score_rows(found, {"x": (Told(answer, batch_size=4), ScorerPlan(scorer="x"))}, folder)
    assert [row["reject_reason"] for row in done] == [None, "ValueError: cannot be seen", None, None]
    assert done[1]["reject_stage"] == "score x"


def test_what_would_befall_every_clip_stops_the_run(rows):
    folder, found = rows

    def full(one):
        raise MachineError("the disk is full")

    with pytest.raises(MachineError, match="the disk is full"):
        score_rows(found, {"x": (Told(full), ScorerPlan(scorer="x"))}, folder)


def test_a_clip_is_scored_on_its_film_and_on_its_file_where_the_film_is_gone(rows, tmp_path):
    folder, found = rows
    film = footage.write(tmp_path / "film.mp4", footage.numbered(40))
    scorer = Told(lambda one: float(footage.number_of(one.frames[0])))
    span = {**found[0], "source": str(film), "start_frame": 12, "end_frame": 30}
    done = score_rows([span], {"x": (scorer, ScorerPlan(scorer="x"))}, folder)
    assert done[0]["x"] == 12
    footage.write(folder / "own.mp4", footage.numbered(5))
    lost = {**span, "path": "own.mp4", "source": str(tmp_path / "absent.mp4")}
    assert score_rows([lost], {"x": (scorer, ScorerPlan(scorer="x"))}, folder)[0]["x"] == 0
    gone = {**lost, "path": None}
    done = score_rows([gone], {"x": (scorer, ScorerPlan(scorer="x"))}, folder)
    assert "No such file" in done[0]["reject_reason"]


def test_a_score_that_is_not_finite_is_missing(rows):
    folder, found = rows
    done = score_rows(
        found[:1], {"x": (Told(lambda one: float("nan")), ScorerPlan(scorer="x", min=0))}, folder
    )
    assert (done[0]["x"], done[0]["reject_reason"]) == (None, "x could not be scored")


# -- bounds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bounds", "kept"),
    [
        (3.0, {"min": 3}, True),
        (3.0, {"min": 3, "exclusive": True}, False),
        (8.0, {"max": 8, "exclusive": True}, False),
        (None, {"min": 3}, False),
        (None, {"min": 3, "missing_passes": True}, True),
        (None, {}, True),
    ],
)
def test_bounds(value, bounds, kept):
    plan = ScorerPlan(scorer="x", **bounds)
    assert passes(value, plan) is kept
    if not kept:
        assert why("x", value, plan)


def test_other_bounds_forget_earlier_rejections_by_a_score_alone():
    rows = [
        {**new_row(id="a", type="video"), "x": 1.0},
        {**new_row(id="b", type="video", reject_stage="cut", reject_reason="shorter than 3 s"), "x": None},
    ]
    strict = by_score(rows, "x", ScorerPlan(scorer="x", min=2))
    assert [row["reject_reason"] for row in strict] == ["x below 2", "shorter than 3 s"]
    loose = again(strict, {"x": ScorerPlan(scorer="x", min=0.5)})
    assert [row["reject_reason"] for row in loose] == [None, "shorter than 3 s"]


def test_a_clip_error_is_its_message():
    from vader_data.errors import reason

    assert reason(ClipError("it breaks off")) == "it breaks off"
