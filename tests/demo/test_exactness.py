"""On the trained demo model in float64 the method's gradients are those of the loop written by hand."""

from __future__ import annotations

import pytest
from reference_loop import assert_equal, by_hand, make, step

from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin


@pytest.fixture(scope="module")
def parts():
    return make(add_testing_plugin(load_registry()), "demo", {}, prompts="demo")


@pytest.mark.quick_cases("last-*")
@pytest.mark.parametrize(
    ("gradient", "chosen", "refl_at", "detach"),
    [
        ("last", {4}, None, False),
        ("last:3", {2, 3, 4}, None, False),
        ("last:3", {2, 3, 4}, None, True),
        pytest.param("from:0", {0, 1, 2, 3, 4}, None, False, marks=pytest.mark.soak),
        ("steps:1,3", {1, 3}, None, False),
        ("refl:3-3", {3}, 3, False),
    ],
)
def test_gradient_equals_reference_loop(parts, gradient, chosen, refl_at, detach):
    found = step(parts, gradient=gradient, reward_frames="all", detach_input=detach)
    assert_equal(found, by_hand(parts, chosen, detach=detach, refl_at=refl_at))


@pytest.mark.soak
def test_checkpointing_changes_nothing(parts):
    plain = step(parts, gradient="last:2")
    assert_equal(step(parts.with_model(checkpointing=True), gradient="last:2"), plain, 1e-12)


@pytest.mark.slow
def test_gradient_of_two_is_the_mean_of_two_of_one(parts):
    both = step(parts, gradient="last:2")
    one, other = (step(parts, gradient="last:2", indices=(index,)) for index in (0, 1))
    assert_equal(both, {name: (one[name] + other[name]) / 2 for name in one})
