"""From a preset, flags and ``-o`` to a plan; every mistake is one message."""

from __future__ import annotations

import pytest
from vader_data.planning import make_plan, merged, presets, read_preset
from vader_data.work import CAPTIONS, CLIPS, chain

from vader_core.errors import VaderError

NO_CAPTIONS = "captions.name=none"
NEEDED = {"easyanimate_v2_article": ("scorers.motion.options.weights=random",)}


def test_the_presets_have_these_names():
    assert set(presets()) == {
        "easyanimate_v2",
        "easyanimate_v2_article",
        "opensora_1_1",
        "text2bricks",
        "plain",
    }


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_a_plan_with_upstreams_mistakes_off_and_on(name):
    options = (NO_CAPTIONS, *NEEDED.get(name, ()))
    plan, upstream = make_plan(name, options=options), make_plan(name, options=options, as_upstream=True)
    if name == "plain":
        assert plan == upstream
        return
    assert plan.detector.options.get("merge_short_scenes") is None
    assert upstream.detector.options["merge_short_scenes"] is True
    assert (plan.duplicates.distance, upstream.duplicates.distance) == (9, None)


def test_published_values():
    easy = make_plan("easyanimate_v2", options=(NO_CAPTIONS,))
    assert (easy.cut.min_seconds, easy.cut.max_seconds) == (3, 10)
    assert {name: (one.min, one.max) for name, one in easy.scorers.items()} == {
        "text_area": (None, 0.02),
        "motion": (3, 8),
        "aes": (4, None),
    }
    article = make_plan("easyanimate_v2_article", options=(NO_CAPTIONS, *NEEDED["easyanimate_v2_article"]))
    assert article.scorers["text_area"].max == 0.01
    assert article.scorers["motion"].scorer == "raft"
    bricks = make_plan("text2bricks", options=(NO_CAPTIONS,))
    assert (bricks.cut.fps, bricks.cut.shorter_side, bricks.scorers["aes"].min) == (30, 720, 5)
    assert (bricks.cut.min_frames, bricks.cut.max_frames, bricks.images.middle_frame) == (15, 200, True)
    assert bricks.detector.options["min_scene_len"] == 90


def test_later_wins_and_values_have_the_options_types():
    plan = make_plan(
        "easyanimate_v2",
        options=(
            NO_CAPTIONS,
            "cut.max_seconds=8",
            "detector.options.thresholds=10,20",
            "detector.options.frame_skips=0,1",
            "scorers.motion.max=none",
            "scorers.aes=none",
            "scorers.sharp.scorer=reward",
            "scorers.sharp.options.reward=jpeg_size",
            "duplicates.distance=none",
        ),
    )
    assert plan.cut.max_seconds == 8.0
    assert plan.detector.options["thresholds"] == ["10", "20"]  # read by the detector's own model
    assert plan.scorers["motion"].max is None
    assert list(plan.scorers) == ["text_area", "motion", "sharp"]
    assert plan.duplicates.distance is None


def test_another_component_forgets_the_options_of_the_first():
    plan = make_plan("easyanimate_v2", options=(NO_CAPTIONS, "detector.name=content"))
    assert plan.detector.options == {}
    assert plan.captions.options == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("cut.max_second=8",), r"cut has no option 'max_second'; did you mean 'm..x?_seconds'"),
        (("cut.max_seconds=long",), "cut.max_seconds='long' is not allowed"),
        (("cut=8",), "names a whole section"),
        (("cut.max_seconds",), "write KEY=VALUE"),
        (("scorers.motion.options.windw=3",), "scorer 'farneback' has no option 'windw'"),
        (("scorers.motion.mn=3",), "a scorer has no option 'mn'"),
        (("scorers.motion.scorer=farnebeck",), "unknown scorer 'farnebeck'; did you mean 'farneback'"),
        (("scorers.beauty=none",), "there is no score 'beauty' to leave out"),
        (("detector.name=cascad",), "unknown detector 'cascad'; did you mean 'cascade'"),
        (("detector.options.frame_skips=0",), "as many thresholds as frame_skips"),
        (("scorers.motion.min=9",), "min=9 lies above max=8"),
        (("scorers.text.scorer=text_area",), "score .text. has the name"),
        (("exports=opensora",), "unknown export format 'opensora'; did you mean 'opensora_csv'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(VaderError, match=message):
        make_plan("easyanimate_v2", options=(NO_CAPTIONS, *options))


def test_a_preset_that_needs_a_captioner_says_how_to_name_it():
    with pytest.raises(VaderError, match=r"needs the option 'url'(?s:.*)captions none"):
        make_plan("easyanimate_v2")


def test_a_preset_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("plan:\n  cut: {min_seconds: 1}\n  detector: {name: adaptive}\n")
    assert make_plan(str(path)).cut.min_seconds == 1
    path.write_text("cut: {min_seconds: 1}\n")
    with pytest.raises(VaderError, match="it must hold `plan:`"):
        read_preset(str(path))
    path.write_text("plan: [")
    with pytest.raises(VaderError, match="not readable YAML"):
        read_preset(str(path))
    with pytest.raises(VaderError, match="no such file"):
        read_preset(str(tmp_path / "absent.yaml"))
    with pytest.raises(VaderError, match="unknown preset 'easyanimate'; did you mean 'easyanimate_v2'"):
        read_preset("easyanimate")


def test_merging_leaves_its_arguments_alone():
    below = {"cut": {"fps": 30}}
    assert merged(below, {"cut": {"fps": 24}}) == {"cut": {"fps": 24}}
    assert below == {"cut": {"fps": 30}}


def test_scores_on_the_cpu_share_a_step_and_a_network_has_its_own():
    plan = make_plan(
        "easyanimate_v2",
        options=(
            "captions.options.url=x",
            "captions.options.model=y",
            "scorers.match.scorer=reward",
            "scorers.match.options.reward=pick_score",
            "scorers.match.after_captions=true",
        ),
    )
    steps = [(str(step), step.gpu) for step in chain(plan, CLIPS)]
    assert steps == [
        ("load", False),
        ("cut", False),
        ("score text_area motion", False),
        ("score aes", True),
        ("fingerprint", False),
        ("tidy", False),
        ("save", False),
    ]
    assert [str(step) for step in chain(plan, CAPTIONS)] == ["load", "caption", "score match", "tidy", "save"]
