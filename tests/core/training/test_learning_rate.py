"""The schedules a run can ask for are the published ones; options of another schedule are refused."""

from __future__ import annotations

import pytest

from vader_core.errors import VaderError
from vader_core.run.config import TrainerSection
from vader_core.training import learning_rate as published
from vader_core.training.optimizer import check_schedule, learning_rate

CYCLE = {"min_lr": 1e-7, "final_lr": 1e-5, "cooldown_steps": 5}


@pytest.mark.parametrize("step", [0, 1, 3, 4, 5, 8, 9, 20])
def test_each_name_is_its_schedule(step):
    def found(name, **more):
        return learning_rate(TrainerSection(lr=1e-4, warmup_steps=4, lr_schedule=name, **more), step)

    assert found("linear_warmup") == published.linear_warmup(step, 1e-4, 4)
    assert found("warmup_from_zero") == published.warmup_from_zero(step, 1e-4, 4)
    assert found("cosine_const") == published.cosine_const(step, 1e-4, 4)
    expected = published.one_cycle(step, min_lr=1e-7, max_lr=1e-4, final_lr=1e-5, warmup=4, cooldown=5)
    assert found("one_cycle", **CYCLE) == expected
    assert found("constant") == pytest.approx(1e-4 * min(1, (step + 1) / 4))


def test_a_cycle_of_straight_lines():
    common = {"min_lr": 0.0, "max_lr": 1.0, "final_lr": 0.5, "warmup": 4, "cooldown": 2, "anneal": "linear"}
    assert [published.one_cycle(k, **common) for k in range(8)] == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.5]


def test_options_of_another_schedule_are_refused():
    check_schedule(TrainerSection(lr_schedule="one_cycle", **CYCLE))
    check_schedule(TrainerSection())
    with pytest.raises(VaderError, match=r"one_cycle needs trainer\.final_lr"):
        check_schedule(TrainerSection(lr_schedule="one_cycle", min_lr=1e-7, cooldown_steps=5))
    with pytest.raises(VaderError, match=r"trainer\.min_lr belongs to trainer\.lr_schedule=one_cycle"):
        check_schedule(TrainerSection(min_lr=1e-7))
