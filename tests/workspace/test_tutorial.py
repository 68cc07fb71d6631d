"""Runs docs/writing-a-plugin.md: its files are written, its commands run, in order, beside the core alone."""

import json
import re
import shlex
from pathlib import Path

import pytest

from vader_core.testing import backbone_clauses, prompt_source_clauses, reward_clauses, sampler_clauses

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-plugin.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\w+)=(\S+))?\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def apart(make_environment, wheels):
    """An environment of its own, with the core alone."""
    return make_environment(wheels["vader-core"])


def run(environment, words, folder):
    """One command of the page; pip and pytest are those of the tests, told where to install and what to import."""
    program, *arguments = words
    if program == "vader":
        return environment.run(*arguments, cwd=folder)
    if program == "pytest":
        return environment.execute("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, cwd=folder)
    assert words[:2] == ["pip", "install"], words
    return environment.pip(*arguments[1:], cwd=folder)


def test_every_command_of_the_tutorial_works(apart, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = 0
    for language, key, place, text in BLOCKS:
        if language == "python" and key == "file":
            (tmp_path / place).write_text(text)
        elif language == "bash":
            for line in text.splitlines():
                done = run(apart, shlex.split(line), tmp_path)
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
                commands += 1
    assert commands == sum(text.count("\n") for language, *_, text in BLOCKS if language == "bash")
    assert (tmp_path / "look.mp4").stat().st_size > 1000
    for name, steps in (("warm", 3), ("red", 3), ("latte", 2)):
        assert json.loads((tmp_path / "runs" / name / "summary.json").read_text())["steps"] == steps


def test_code_on_the_page_is_the_code_of_the_examples():
    shown = [(place, text) for language, key, place, text in BLOCKS if language == "python" and key == "same"]
    assert len(shown) == 3
    for place, text in shown:
        assert text.strip("\n") in (ROOT / place).read_text()
    assert {language for language, *_ in BLOCKS} == {"bash", "python"}
    assert all(key for language, key, *_ in BLOCKS if language == "python")


def test_the_examples_are_as_small_as_the_page_says():
    for name in ("reward", "sampler", "prompts"):
        source = ROOT / "examples" / "vader-example" / "vader_example" / f"{name}.py"
        assert len(source.read_text().splitlines()) < 30
    latte = ROOT / "examples" / "vader-latte" / "vader_latte" / "backbone.py"
    assert len(latte.read_text().splitlines()) <= 150


def test_the_page_lists_every_clause():
    contracts = (backbone_clauses(), sampler_clauses(), reward_clauses(), prompt_source_clauses())
    wanted = {f"| `{clause}` | {clause.promise} |" for contract in contracts for clause in contract}
    listed = {line for line in PAGE.splitlines() if re.match(r"\| `\w+` \| ", line)}
    assert listed == wanted
