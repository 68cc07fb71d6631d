"""A reward of one's own, by its file, from Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vader_core import api
from vader_core.assembly.prepare import make_prompts
from vader_core.errors import VaderError
from vader_core.registry import Registry
from vader_core.run.layers import read_yaml, to_yaml

SOURCE = "def red(frames):\n    return frames[:, 0].mean(dim=(1, 2))\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "mine.py"
    found.write_text(SOURCE)
    return found


def test_it_trains_scores_and_samples(registry: Registry, file: Path, tmp_path: Path) -> None:
    config = api.configure(
        registry=registry,
        backbone="tiny",
        reward=[f"{file}:red:2"],
        prompts="fixed",
        sampler={"num_steps": 2},
        trainer={"max_steps": 1, "device": "cpu"},
        validation={"prompts": 0},
        run={"trackers": []},
    )
    assert config.reward[0].weight == 2
    api.train(config, out=tmp_path / "run", registry=registry)
    found = api.sample(config, rewards=[f"{file}:red"], max_prompts=1, registry=registry)
    assert list(found.scores) == ["red"]
    api.sample(config, out=tmp_path / "clips", max_prompts=1, registry=registry)
    scored = api.score_clips(tmp_path / "clips", [f"{file}:red"], device="cpu", registry=registry)
    assert all(0 <= one["red"] <= 1 for one in scored.values())


def test_a_weight_that_is_no_number_is_refused(registry: Registry, file: Path) -> None:
    with pytest.raises(VaderError, match="weight"):
        api.configure(registry=registry, backbone="tiny", reward=[f"{file}:red:much"])


def test_a_run_that_names_a_file_of_nobody_runs_no_code(registry: Registry, file: Path) -> None:
    entry = {"name": "other", "function_file": str(file), "function_sha256": ""}
    config = api.configure(registry=registry, backbone="tiny", reward=[entry], prompts="fixed")
    with pytest.raises(VaderError, match=r"in Python, configure\(reward="):
        api.plan(config, registry=registry)


def test_prompts_may_be_a_list_of_texts(registry: Registry, tmp_path: Path) -> None:
    asked = {"backbone": "tiny", "reward": ["brightness"], "trainer": {"device": "cpu"}}
    config = api.configure(registry=registry, prompts=["a cat", "a dog"], **asked)
    assert {prompt.text for prompt in make_prompts(config, registry).all()} == {"a cat", "a dog"}
    assert api.plan(config, registry=registry)["prompts"] == "text"
    (tmp_path / "run.yaml").write_text("prompts: [a cat, 7]\n")
    assert read_yaml(tmp_path / "run.yaml") == {"prompts": {"source": "text", "text": ["a cat", "7"]}}
    with pytest.raises(VaderError, match="a list of prompts holds texts alone"):
        api.configure(registry=registry, prompts=["a cat", {"text": "a dog"}], **asked)


def test_other_prompts_take_the_place_of_a_runs_list(
    registry: Registry, vader: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = api.configure(registry=registry, backbone="tiny", prompts=["a cat", "a dog"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    mine = api.configure(from_run=tmp_path, registry=registry, prompts="text:a bird")
    assert [prompt.text for prompt in make_prompts(mine, registry).all()] == ["a bird"]
    same = api.configure(from_run=tmp_path, registry=registry)
    assert [prompt.text for prompt in make_prompts(same, registry).all()] == ["a cat", "a dog"]
    shown = ["config", "--config", tmp_path / "config.yaml", "--prompts", "text:a bird"]
    assert vader(*shown) == 0
    told = capsys.readouterr().out
    assert "source: text:a bird" in told
    assert "a cat" not in told
    with pytest.raises(VaderError, match=r"text:a bird and prompts\.text say the same thing twice"):
        make_prompts(
            api.configure(registry=registry, prompts={"source": "text:a bird", "text": "a cat"}), registry
        )
