"""A CUDA device on paper: what lies on it, and that the process is left as it was."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pkgutil import resolve_name

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vader_core.nn.build import empty_module
from vader_core.profiling.paper_device import _REPLACED, on_paper


def test_what_lies_on_the_paper_device_is_booked_once_and_struck_when_it_goes() -> None:
    with on_paper() as device:
        here = torch.arange(3.0)
        assert here.sum().item() == 3.0  # the CPU is real
        one = torch.empty(1000, device="cuda")
        assert device.ledger.live == 4096  # 4,000 bytes in multiples of 512
        view = one.view(10, 100).t()
        assert device.ledger.live == 4096
        other = here.to("cuda")
        assert other.device.type == "cuda"
        assert device.ledger.live == 4096 + 512
        away = one.cpu()
        assert away.device.type == "cpu"
        del one, view
        assert device.ledger.live == 512
        assert device.ledger.peak == 4096 + 512
        assert float(other.sum()) == 1.0


def test_a_mask_takes_everything_and_its_opposite_nothing() -> None:
    with on_paper():
        x = torch.zeros(3, 4, 5, device="cuda")
        mask = torch.ones(3, 4, dtype=torch.bool, device="cuda")
        assert x[mask].shape == x[~~mask].shape == (12, 5)
        assert x[~mask].shape == (0, 5)
        assert x[:, ~mask[0]].shape == (3, 0, 5)
        assert torch.cat([row[one] for row, one in zip(x, ~mask, strict=True)]).shape == (0, 5)
        assert mask.nonzero().shape == (12, 2)
        assert [len(places) for places in torch.where(~mask)] == [0, 0]
        assert x.masked_select(mask[..., None]).shape == (60,)


@pytest.mark.slow
def test_the_first_thing_a_process_does_may_be_on_paper() -> None:
    code = "from vader_core.profiling.paper_device import on_paper\nwith on_paper(): pass"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_attention_on_paper_holds_no_scores() -> None:
    with on_paper() as device:
        for dtype, mask in ((torch.bfloat16, False), (torch.float32, False), (torch.bfloat16, True)):
            q = torch.randn(1, 2, 2048, 64, device="cuda", dtype=dtype, requires_grad=True)
            given = torch.zeros(1, 1, 1, 2048, device="cuda") if mask else None
            device.ledger.reset()
            before = device.ledger.live
            F.scaled_dot_product_attention(q, q, q, attn_mask=given).float().sum().backward()
            assert q.grad is not None
            assert q.grad.shape == q.shape
            assert device.ledger.peak - before < 2 * 2048**2 * dtype.itemsize / 2


def test_the_process_is_left_as_it_was() -> None:
    def now() -> list[object]:
        return [_found(place) for place in _REPLACED]

    before, state = now(), torch.get_rng_state()
    with on_paper():
        assert all(one is not other for one, other in zip(now(), before, strict=True) if one is not True)
        nn.Linear(4, 4).to("cuda")(torch.randn(2, 4, device="cuda")).sum().backward()
    assert all(one is other for one, other in zip(now(), before, strict=True))
    torch.set_rng_state(state)


def _found(place: str) -> object:
    """What stands at a dotted place, as its owner holds it."""
    owner, _, name = place.rpartition(".")
    return inspect.getattr_static(resolve_name(owner), name)


@pytest.mark.parametrize("innermost", [False, True])
def test_a_convolution_on_paper_lies_as_on_the_device(innermost):
    layout = torch.channels_last if innermost else torch.contiguous_format
    with on_paper():
        x = torch.empty(2, 8, 6, 6, device="cuda").to(memory_format=layout)
        weight = torch.empty(16, 8, 3, 3, device="cuda")
        out = F.conv2d(x, weight, padding=1)
        flags = (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, False, False)
        gradient = torch.ops.aten.convolution_backward(out, x, weight, None, *flags)[0]
        assert out.is_contiguous(memory_format=layout)
        assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("innermost", "dtype", "turned"),
    [(False, torch.bfloat16, 2), (True, torch.bfloat16, 0), (False, torch.float32, 0)],
)
def test_a_convolution_over_three_axes_turns_what_lies_otherwise(innermost, dtype, turned):
    """cuDNN's 16-bit kernels want channels innermost: both sides are copied in passing."""
    layout = torch.channels_last_3d if innermost else torch.contiguous_format
    with on_paper() as device, torch.no_grad():
        x = torch.empty(1, 8, 6, 16, 32, device="cuda", dtype=dtype).to(memory_format=layout)
        weight = torch.empty(8, 8, 3, 3, 3, device="cuda", dtype=dtype)
        before = device.ledger.live
        device.ledger.reset()
        out = F.conv3d(x, weight, padding=1)
        size = out.numel() * out.itemsize
        assert device.ledger.live - before == size
        assert device.ledger.peak - device.ledger.live == turned * size


def test_a_convolution_copies_what_lies_otherwise_first() -> None:
    with on_paper() as device, torch.no_grad():
        x = torch.empty(1, 6, 8, 16, 32, device="cuda", dtype=torch.bfloat16)
        weight = torch.empty(8, 8, 1, 1, 1, device="cuda", dtype=torch.bfloat16)
        for given, copied in ((x.transpose(1, 2), 1), (x.transpose(1, 2).contiguous(), 0)):
            device.ledger.reset()
            out = F.conv3d(given, weight)
            size = out.numel() * out.itemsize
            assert device.ledger.peak - device.ledger.live == (2 + copied) * size  # both sides are turned
            del out


class Tied(nn.Module):
    """Words in and out by one table, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(100, 64), nn.LayerNorm(64)
        self.out = nn.Linear(64, 100, bias=False)
        self.out.weight = self.words.weight


@pytest.mark.parametrize("wide", [False, True])
def test_tied_weights_are_one_on_paper_too(wide: bool) -> None:
    half = torch.bfloat16

    def keep(module: Tied) -> None:
        if wide:
            module.out.float()

    with on_paper() as device:
        module = empty_module(Tied, device=torch.device("cuda"), dtype=half, keep=keep)
        assert module.out.weight is module.words.weight
        assert module.words.weight.dtype == (torch.float32 if wide else half)
        assert device.bytes_of(module.parameters()) == 100 * 64 * (4 if wide else 2) + 2 * 512
    real = empty_module(Tied, device=torch.device("cpu"), dtype=half, keep=keep)
    assert real.out.weight is real.words.weight
    assert {name: one.dtype for name, one in real.named_parameters()} == {
        name: one.dtype for name, one in module.named_parameters()
    }
