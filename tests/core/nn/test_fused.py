"""Modules with another forward pass: the same numbers, names and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.nn import functional as kernels
from vader_core.nn.fused import fuse_norms, swap_forward


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 8, eps=1e-3)
        self.line = nn.Linear(8, 8)
        self.last = nn.LayerNorm(8)
        self.bare = nn.LayerNorm(8, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 8, h, w] to [n, h w, 8]."""
        tokens = self.last(self.line(self.norm(x).flatten(2).transpose(1, 2)))
        return self.bare(tokens.square())


@pytest.fixture
def net() -> _Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = _Net()
        for parameter in made.parameters():
            parameter.data.normal_()
    return made.requires_grad_(False)


def _input(dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(2, 6, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x.to(dtype).movedim(-1, 1)


def _scaled(rows: Tensor, eps: float) -> Tensor:
    """Rows less their mean, over the root of their variance."""
    apart = rows - rows.mean(dim=-1, keepdim=True)
    return apart / (apart.square().mean(dim=-1, keepdim=True) + eps).sqrt()


def _by_hand(net: _Net, x: Tensor) -> Tensor:
    groups = _scaled(x.reshape(len(x), net.norm.num_groups, -1), net.norm.eps).view_as(x)
    normed = groups * net.norm.weight[:, None, None] + net.norm.bias[:, None, None]
    tokens = normed.flatten(2).transpose(1, 2) @ net.line.weight.t() + net.line.bias
    tokens = _scaled(tokens, net.last.eps) * net.last.weight + net.last.bias
    return _scaled(tokens.square(), net.bare.eps)


def test_fused_modules_keep_numbers_names_and_gradients(net: _Net) -> None:
    net.double()
    x, names = _input().requires_grad_(), list(net.state_dict())
    assert fuse_norms(net) == 3
    assert isinstance(net.norm, nn.GroupNorm)
    assert list(net.state_dict()) == names
    found, wanted = net(x), _by_hand(net, x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    given = torch.randn(found.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = [torch.autograd.grad(out, x, given)[0] for out in (found, wanted)]
    assert float(gradients[1].abs().max()) > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
def test_fused_modules_are_as_near_to_float64_as_torch_s_own(
    net: _Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched, launches = [], kernels._launches
    monkeypatch.setattr(kernels, "_launches", lambda: launched.append(1) or launches())
    x = _input(torch.bfloat16)
    given = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(3))

    def results(of: nn.Module, x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        out = of(x)
        return [out, torch.autograd.grad(out, x, given.to(out))[0]]

    net.bfloat16()
    exact = results(net.double(), x.double())
    net.bfloat16().cuda()
    plain = results(net, x.cuda())
    assert not launched
    assert fuse_norms(net) == 3
    fused = results(net, x.cuda())
    assert launched
    for found, usual, right in zip(fused, plain, exact, strict=True):
        error, limit = ((one.cpu().double() - right).norm() / right.norm() for one in (found, usual))
        assert error <= 1.5 * limit + 1e-3


def test_swap_forward_touches_that_class_alone(net: _Net) -> None:
    class Own(nn.Linear):
        """Not the class itself."""

    def doubled(self: Any, x: Tensor) -> Tensor:
        return 2 * nn.Linear.forward(self, x)

    net.other = Own(8, 8)
    assert swap_forward(net, nn.Linear, doubled) == 1
    x = torch.ones(1, 8)
    assert torch.equal(net.line(x), 2 * F.linear(x, net.line.weight, net.line.bias))
    assert torch.equal(net.other(x), F.linear(x, net.other.weight, net.other.bias))
