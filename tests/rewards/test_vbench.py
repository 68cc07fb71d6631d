"""`vader evaluate --suite vbench`: each dimension's clips, a table, a page, VBench's file names."""

from __future__ import annotations

import importlib
import json

import pytest
from vader_rewards.plugin import REWARDS

from vader_core.api.suite import clip_name
from vader_core.cli import run
from vader_core.evaluation.suite import find_suite
from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin

INFO = [
    {"prompt_en": "a cat", "dimension": ["temporal_flickering", "object_class"]},
    {"prompt_en": "a dog/wolf <b>", "dimension": ["temporal_flickering", "subject_consistency"]},
    {"prompt_en": "a chair", "dimension": ["scene"]},
]


@pytest.fixture
def vader(monkeypatch):
    registry = add_testing_plugin(load_registry())
    for name in ("train", "evaluate"):
        monkeypatch.setattr(
            importlib.import_module(f"vader_core.cli.{name}"), "load_registry", lambda: registry
        )
    monkeypatch.setattr("vader_core.registry.load_registry", lambda: registry)
    return lambda *arguments: run([str(one) for one in arguments])


@pytest.fixture
def tuned(vader, tmp_path):
    given = [
        "train",
        "--backbone",
        "tiny",
        "--reward",
        "brightness",
        "--prompts",
        "fixed",
        "--num-steps",
        "2",
    ]
    given += ["--max-steps", "1", "--lr", "0.1", "--quiet", "-o", "validation.prompts=0"]
    assert vader(*given, "--out", tmp_path / "run") == 0
    (tmp_path / "info.json").write_text(json.dumps(INFO))
    return tmp_path / "run"


def test_every_dimension_has_an_installed_reward():
    suite = find_suite("vbench", load_registry())
    assert {one.reward for one in suite.dimensions.values()} <= set(REWARDS)
    assert len({*suite.dimensions, *suite.left_out}) == 16  # all that VBench has


def test_clips_table_and_page(vader, tuned, tmp_path, capsys):
    clips = tmp_path / "clips"
    given = ["evaluate", tuned, "--suite", "vbench", "--suite-prompts", tmp_path / "info.json"]
    given += [
        "--dimension",
        "temporal_flickering",
        "--most-videos",
        "2",
        "--clips",
        clips,
        "--batch-size",
        "3",
    ]
    assert vader(*given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    row = found["dimensions"]["temporal_flickering"]
    assert row["clips"] == 4
    assert 0 < row["base"] < 1
    assert row["base"] != row["tuned"]
    names = {path.name for path in (clips / "tuned").iterdir()}
    assert names == {"a cat-0.mp4", "a cat-1.mp4", "a dog wolf  b -0.mp4", "a dog wolf  b -1.mp4"}
    page = (clips / "index.html").read_text()
    assert "temporal_flickering" in page
    assert "detectron2" in page
    assert json.loads((clips / "scores.json").read_text()) == found
    assert vader(*given, "--most-prompts", "1") == 0
    assert "suite vbench" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--suite", "vbench"], "needs --suite-prompts FILE"),
        (["--suite", "vbenc", "--suite-prompts", "x.json"], "unknown suite 'vbenc'"),
        (["--suite", "vbench", "--suite-prompts", "nowhere.json"], "cannot be read"),
        (["--suite", "vbench", "--suite-prompts", "INFO", "--dimension", "scene"], "leaves it out"),
        (["--suite", "vbench", "--suite-prompts", "INFO", "--dimension", "sceen"], "unknown dimension"),
        (["--suite", "vbench", "--suite-prompts", "INFO", "--dimension", "dynamic_degree"], "no prompt for"),
        (["--dimension", "scene"], "belongs to --suite"),
    ],
)
def test_what_cannot_be_is_refused(vader, tuned, tmp_path, capsys, more, message):
    given = [tmp_path / "info.json" if one == "INFO" else one for one in more]
    assert vader("evaluate", tuned, *given) == 2
    assert message in capsys.readouterr().err


def test_a_long_prompt_makes_a_name_that_a_disk_takes():
    assert len(clip_name("é" * 400, 12).encode()) < 255
    assert clip_name('a "red" cat?', 0) == "a  red  cat -0.mp4"
