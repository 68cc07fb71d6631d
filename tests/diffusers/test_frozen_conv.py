"""Convolutions that keep no input: the same numbers, gradients and names, less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from vader_diffusers.frozen_conv import keep_no_inputs

torch.set_num_threads(1)


def make(kind: str) -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = {
            "plane": nn.Conv2d(3, 4, 3, stride=2, padding=1),
            "grouped": nn.Conv2d(4, 4, 3, groups=2, dilation=2),
            "volume": nn.Conv3d(3, 4, (3, 1, 3), padding=(1, 0, 1)),
            "replicated": nn.Conv3d(3, 4, 3, padding=1, padding_mode="replicate"),
            "line": nn.Conv1d(3, 4, 3, bias=False),
        }[kind]
        sides = {1: (9,), 2: (9, 8), 3: (5, 9, 8)}[made.weight.ndim - 2]
        return made.double().requires_grad_(False), torch.randn(2, made.in_channels, *sides).double()


@pytest.mark.parametrize("kind", ["plane", "grouped", "volume", "replicated", "line"])
def test_numbers_and_gradients_stay(kind):
    conv, x = make(kind)
    lean = copy.deepcopy(conv)
    assert keep_no_inputs(nn.Sequential(lean)) == 1
    assert isinstance(lean, type(conv))
    assert lean.state_dict().keys() == conv.state_dict().keys()
    results = []
    for one in (conv, lean):
        given = x.clone().requires_grad_(True)
        out = one(given)
        (gradient,) = torch.autograd.grad(out.square().sum(), given)
        results.append((out.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-12, atol=1e-12)


def test_a_frozen_one_keeps_its_weight_alone():
    conv, x = make("volume")
    keep_no_inputs(nn.Sequential(conv))
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        conv(x.requires_grad_(True))
    assert [tuple(tensor.shape) for tensor in held] == [tuple(conv.weight.shape)]


def test_a_trained_one_has_its_gradient():
    conv, x = make("volume")
    keep_no_inputs(nn.Sequential(conv))
    conv.requires_grad_(True)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
