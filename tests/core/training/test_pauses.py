"""The garbage collector while steps are computed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from vader_core.training.pauses import short_pauses


class Knot:
    def __init__(self):
        self.own = self


@pytest.fixture(autouse=True)
def thawed():
    """The tests have set aside what they began with."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_what_was_there_is_passed_over_and_what_is_made_is_collected():
    with short_pauses(torch.device("cuda")):
        assert gc.get_freeze_count() > 10_000
        seen = weakref.ref(Knot())
        gc.collect()
        assert seen() is None
    assert gc.get_freeze_count() == 0


def test_garbage_of_before_is_collected_first():
    gc.disable()
    try:
        seen = weakref.ref(Knot())
        assert seen() is not None
        with short_pauses(torch.device("cuda")):
            assert seen() is None
    finally:
        gc.enable()


def test_nothing_is_changed_on_a_cpu():
    with short_pauses(torch.device("cpu")):
        assert gc.get_freeze_count() == 0
