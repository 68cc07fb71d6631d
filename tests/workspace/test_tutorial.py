"""Runs docs/writing-a-plugin.md: its files are written, its commands run, in order, beside the core alone."""

import json
import re
import shlex
from pathlib import Path

import pytest

from vader_core.testing import (
    backbone_clauses,
    objective_clauses,
    prompt_source_clauses,
    reward_clauses,
    sampler_clauses,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-plugin.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\w+)=(\S+))?\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def apart(make_environment, wheels):
    """An environment of its own, with the core alone."""
    return make_environment(wheels["vader-core"])


@pytest.mark.slow
def test_every_command_of_the_tutorial_works(apart, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with apart.warm(tmp_path) as run:
        for language, key, place, text in BLOCKS:
            if language == "python" and key == "file":
                (tmp_path / place).write_text(text)
            for line in text.splitlines() if language == "bash" else ():
                program, *arguments = shlex.split(line)
                if program == "pip":
                    assert arguments[0] == "install"
                    done = apart.pip(*arguments[1:], cwd=tmp_path)
                    code, said = done.returncode, done.stderr
                else:
                    assert program in ("vader", "pytest")
                    code, said = run(program, *arguments)
                assert code == 0, f"{line}\n{said}"
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
    assert len(latte.read_text().splitlines()) <= 155


def test_the_page_lists_every_clause():
    contracts = (backbone_clauses, sampler_clauses, reward_clauses, prompt_source_clauses, objective_clauses)
    wanted = {f"| `{clause}` | {clause.promise} |" for contract in contracts for clause in contract()}
    listed = {line for line in PAGE.splitlines() if re.match(r"\| `\w+` \| ", line)}
    assert listed == wanted
