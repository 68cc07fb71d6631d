"""The optimizers, and the learning rates of groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vader_core.errors import MissingDependencyError, VaderError
from vader_core.run.config import TrainerSection
from vader_core.training.optimizer import Updates, make_optimizer
from vader_core.training.processes import SingleProcess


class Learning:
    """Two named weights."""

    def __init__(self):
        self.weights = {
            "blocks.1.attn.weight": nn.Parameter(torch.ones(3)),
            "blocks.10.attn.weight": nn.Parameter(torch.ones(3)),
        }

    def parameters(self):
        return self.weights


def test_a_group_learns_at_its_own_rate():
    tuning = Learning()
    trainer = TrainerSection(lr_factors={"blocks.1": 0.1}, weight_decay=0.0)
    updates = Updates(tuning, trainer, SingleProcess(torch.device("cpu")))
    updates.set_rate(0.5)
    with updates.update() as backward:
        backward(sum(value.sum() for value in tuning.weights.values()))
    slow, usual = tuning.weights.values()
    # AdamW's first step is the rate itself, whatever the gradient
    assert torch.allclose(1 - usual, torch.full((3,), 0.5), atol=1e-5)
    assert torch.allclose(1 - slow, torch.full((3,), 0.05), atol=1e-5)


def test_a_group_without_weights_is_refused():
    with pytest.raises(VaderError, match="nothing that learns lies in"):
        make_optimizer(Learning().weights, TrainerSection(lr_factors={"blocks.2": 0.1}))


def test_an_optimizer_of_other_groups_is_refused():
    process = SingleProcess(torch.device("cpu"))
    saved = Updates(Learning(), TrainerSection(), process).state()
    other = Updates(Learning(), TrainerSection(lr_factors={"blocks.1": 0.1}), process)
    with pytest.raises(VaderError, match="lr_factors changed"):
        other.restore(saved)


def test_epsilon_is_adamws():
    small = make_optimizer(Learning().weights, TrainerSection(eps=1e-10))
    assert small.defaults["eps"] == 1e-10
    assert make_optimizer(Learning().weights, TrainerSection()).defaults["eps"] == 1e-8
    with pytest.raises(VaderError, match="belongs to AdamW"):
        make_optimizer(Learning().weights, TrainerSection(optimizer="lion", eps=1e-10))


def test_an_optimizer_that_is_not_installed_names_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    with pytest.raises(MissingDependencyError, match="pip install pytorch-optimizer"):
        make_optimizer(Learning().weights, TrainerSection(optimizer="came"))


@pytest.mark.parametrize("name", ["came", "lion"])
def test_the_kept_optimizers_lower_a_loss_and_continue_exactly(name):
    pytest.importorskip("pytorch_optimizer")

    def stepped(updates, tuning, count):
        for _ in range(count):
            updates.set_rate(0.05)
            with updates.update() as backward:
                backward(sum((value**2).sum() for value in tuning.weights.values()))

    trainer, process = TrainerSection(optimizer=name, weight_decay=0.0), SingleProcess(torch.device("cpu"))
    whole, parts = Learning(), Learning()
    stepped(Updates(whole, trainer, process), whole, 4)
    first = Updates(parts, trainer, process)
    stepped(first, parts, 2)
    second = Updates(parts, trainer, process)
    second.restore(first.state())
    stepped(second, parts, 2)
    for left, right in zip(whole.weights.values(), parts.weights.values(), strict=True):
        assert torch.equal(left, right)
        assert float(left.detach().sum()) < 3
