"""The conformance kit passes what is sound and catches, by name, what is broken."""

import importlib
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from vader_core.registry import Plugin, Registry, load_registry
from vader_core.testing import (
    ConformanceError,
    add_testing_plugin,
    backbone_clauses,
    check_backbone,
    check_objective,
    check_prompt_source,
    check_reward,
    check_sampler,
    objective_clauses,
    prompt_source_clauses,
    reward_clauses,
    reward_subject,
    sampler_clauses,
)
from vader_core.testing.conformance import reseeded

BROKEN = Path(__file__).parent / "broken_plugins"
DOCS = Path(__file__).parents[2] / "docs" / "writing-a-plugin.md"


def broken(module: str):
    """A module of broken plugins, importable by fresh processes too."""
    if str(BROKEN) not in sys.path:
        sys.path.append(str(BROKEN))
    return importlib.import_module(module)


@cache
def registry_of_testing() -> Registry:
    return add_testing_plugin(Registry())


# -- sound components pass ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["epsilon", "v", "exploding", "flow"])
def test_the_tiny_backbone_passes(schedule):
    options = {"schedule": schedule, "temporal_compression": 1 + (schedule in ("v", "exploding"))}
    report = check_backbone("tiny", options, registry=registry_of_testing())
    assert report.passed
    assert len(report.findings) == len(backbone_clauses())


def test_the_tiny_image_backbone_passes():
    assert check_backbone("tiny_image", registry=registry_of_testing()).passed


@pytest.mark.parametrize("name", ["brightness", "motion"])
def test_the_testing_rewards_pass(name):
    assert check_reward(name, registry=registry_of_testing()).passed


def test_the_testing_prompts_pass():
    assert check_prompt_source("fixed", registry=registry_of_testing()).passed


@pytest.mark.parametrize("name", ["ddim", "dpmpp", "euler", "rectified_flow"])
def test_the_built_in_samplers_pass(name):
    assert check_sampler(name, registry=load_registry()).passed


@pytest.mark.quick_cases("{}")
@pytest.mark.parametrize(
    "options",
    [{}, {"inner_updates": 2}, {"base_weight": 0.5}, {"low_variance": 2}],
    ids=str,
)
def test_the_reward_gradient_passes(options):
    assert check_objective("reward_gradient", options).passed


def test_the_supervised_objective_passes_on_clips():
    assert check_objective("supervised").passed


def test_the_sound_objective_passes():
    from vader_core.component import Component, Registration

    broken("broken_plugin")
    made = importlib.import_module("broken_objectives").Quiet
    registration = Registration(lambda config, *, device, dtype: made())
    sound = Component("objective", "quiet", "sound", "x", "broken_plugin", lambda: registration)
    assert check_objective(sound).passed


@pytest.mark.parametrize("clause", reward_clauses(), ids=str)
def test_clauses_parametrise_a_test(clause):
    assert clause.require(reward_subject("brightness", registry=registry_of_testing()))


def test_clauses_have_unique_names_and_a_sentence_each():
    contracts = backbone_clauses, sampler_clauses, reward_clauses, prompt_source_clauses, objective_clauses
    for clauses in contracts:
        names = [str(clause) for clause in clauses()]
        assert len(set(names)) == len(names)
        assert all(clause.promise.endswith(".") for clause in clauses())


def test_global_random_state_is_left_alone_by_the_kit():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    check_reward("motion", registry=registry_of_testing())
    check_backbone("tiny", registry=registry_of_testing())
    assert torch.equal(before, torch.get_rng_state())


# -- broken components are caught --------------------------------------------------------------------------


@cache
def broken_registry() -> Registry:
    module = broken("broken_plugin")
    registry = Registry()
    registry.add(module, Plugin("broken", "broken", "0", module.__name__))
    assert not registry.broken()
    return registry


CHECKS = {
    "reward": check_reward,
    "backbone": check_backbone,
    "sampler": check_sampler,
    "prompt source": check_prompt_source,
    "objective": check_objective,
}


@pytest.mark.slow_cases(
    "objective-[!tnrs]*",
    "objective-the check*",
    "objective-takes*",
    "objective-needs*",
    "objective-[rs]e[na]*",
)
@pytest.mark.parametrize("case", broken("broken_plugin").CASES, ids=lambda case: f"{case.kind}-{case.defect}")
def test_a_defect_is_caught_by_the_right_clause(case):
    with reseeded(3):  # some defects are draws from the global generators
        report = CHECKS[case.kind](case.name, registry=broken_registry(), raising=False)
    assert set(report.broken) == set(case.clauses), "\n".join(report.lines())


def test_a_plugin_module_that_imports_torch_is_caught():
    module = broken("broken_heavy")
    registry = Registry()
    registry.add(module, Plugin("heavy", "heavy", "0", module.__name__))
    report = check_reward("brightness", registry=registry, raising=False)
    assert report.broken == ("plugin_import",)
    assert "torch" in report.findings[1].found


def test_a_failure_names_subject_clause_promise_and_values():
    with pytest.raises(ConformanceError) as caught:
        check_reward("summed", registry=broken_registry())
    message = str(caught.value)
    assert message.startswith("reward 'summed' breaks the clause `frame_average`: An image reward's score is")
    assert "three frames and the mean of their scores: they differ by" in message
    assert caught.value.exit_code == 2


def test_the_first_of_several_failures_names_the_others():
    with pytest.raises(ConformanceError, match="also broken: finite_differences, direction"):
        check_reward("detached", registry=broken_registry())


def test_the_documented_table_of_defects_is_this_one():
    rows = [
        f"| {case.kind} | {case.defect} | `{case.clauses[0]}` |" for case in broken("broken_plugin").CASES
    ]
    sys.stdout.write("\n".join(["| kind | defect | clause |", "|---|---|---|", *rows, ""]))
    documented = [line for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    assert [row for row in rows if row not in documented] == []
    kinds = tuple(f"| {kind} " for kind in CHECKS)
    assert [line for line in documented if line.startswith(kinds) and line not in rows] == []
