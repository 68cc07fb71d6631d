"""The recipes run, and a few steps of the demo already raise the reward that judges were kept from."""

from __future__ import annotations

import json
import sys

import pytest
import yaml
from click.testing import CliRunner

from vader_core.api.plan import plan
from vader_core.cli.config import command as config_command
from vader_core.cli.train import command
from vader_core.errors import VaderError
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.run.layers import read_recipe

QUICK = ["--quiet", "-o", "run.trackers=[]", "-o", "validation.prompts=0"]


def train(tmp_path, *arguments):
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "run"), *QUICK, *arguments])
    assert result.exit_code == 0, result.output
    return json.loads((tmp_path / "run" / "summary.json").read_text())["evaluation"]


@pytest.mark.parametrize("name", ["demo", "demo_action", "demo_too_far", "demo_nft"])
def test_recipes_are_valid(name, monkeypatch):
    monkeypatch.setattr(
        sys.modules["vader_core.api.plan"], "memory_facts", lambda *_, **__: {}
    )  # has its own tests
    registry = load_registry()
    assert plan(validated(read_recipe(registry, name)), registry=registry)["steps"] > 0


@pytest.mark.soak
def test_three_steps_of_the_demo_raise_reward_and_held_out_reward(tmp_path):
    found = train(
        tmp_path,
        "--recipe",
        "demo",
        "--max-steps",
        "3",
        "--lr",
        "1e-3",
        "-o",
        "validation.evaluation_pairs=8",
    )
    for name in ("demo_aesthetic", "demo_aesthetic_held_out"):
        assert found[name]["ci95"][0] > 0.3
        assert found[name]["win_rate"] == 1
    assert found["demo_alignment"]["difference"] > -0.05


@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        (["--tune", "full"], ("lora", "rank", None)),
        (["-o", "tuning.kind=full"], ("lora", "rank", None)),
        (["--objective", "nft"], ("objective", "reward_gradient", None)),
    ],
)
def test_what_is_chosen_goes_before_what_a_recipe_sets_for_another_choice(arguments, gone):
    section, key, value = gone
    result = CliRunner().invoke(config_command, ["--recipe", "demo", *arguments])
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.output)[section].get(key) == value


def test_what_is_said_on_the_command_line_does_not_give_way():
    arguments = ["--recipe", "demo", "--tune", "full", "--lora-rank", "4"]
    with pytest.raises(VaderError, match=r"lora\.rank has no effect"):
        CliRunner().invoke(config_command, arguments, catch_exceptions=False)
