"""The conformance kit over everything that the plugin registers."""

from __future__ import annotations

import pytest

from vader_core import Prompt
from vader_core.testing import (
    backbone_clauses,
    backbone_subject,
    check_prompt_source,
    check_reward,
)

PROMPTS = (
    Prompt("a red ball rising on a navy background"),
    Prompt("a blue star spinning on a gray background", negative="a white moon"),
)
PLAIN = tuple(Prompt(prompt.text) for prompt in PROMPTS)
TWINS = ("", "_held_out")


@pytest.fixture(
    scope="module", params=[{}, {"weights": "random", "architecture": "tiny"}], ids=["full", "tiny"]
)
def subject(request):
    return backbone_subject("demo", request.param, prompts=PROMPTS)


@pytest.mark.slow_cases("full-*")
@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_backbone(subject, clause):
    clause.require(subject)


@pytest.mark.parametrize(
    "name",
    [
        *(f"demo_{kind}{twin}" for kind in ("aesthetic", "alignment", "action") for twin in TWINS),
        "demo_postcard",
        "demo_postcard_alignment",
    ],
)
def test_reward(name):
    check_reward(name, prompts=PLAIN)


@pytest.mark.parametrize("attribute", ["shape", "colour", "background", "motion"])
def test_judge(attribute):
    report = check_reward(f"demo_judge_{attribute}", prompts=PLAIN, raising=False)
    # A judge says 0 or 1, so the kit's two abstract patterns may well get the same score.
    assert {finding.clause.name for finding in report.findings if not finding.passed} <= {"sensitivity"}


@pytest.mark.parametrize(
    "options", [{}, {"without": ["motion"]}, {"without": "motion", "negative": "a ball"}], ids=str
)
def test_prompt_source(options):
    check_prompt_source("demo", options)


@pytest.mark.slow
def test_clips_to_learn_from():
    check_prompt_source("demo_style", {"count": 12})
