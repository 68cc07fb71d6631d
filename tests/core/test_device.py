"""Tensors reach a device whole, and the host does not wait for what the device still does."""

from __future__ import annotations

import pytest
import torch

from vader_core.device import to_device
from vader_core.randomness import Randomness


def test_what_is_there_is_not_copied():
    tensor = torch.randn(3)
    assert to_device(tensor, "cpu") is tensor


def test_a_device_on_paper_is_reached():
    assert to_device(torch.randn(3), torch.device("meta")).is_meta


def test_an_expanded_tensor_is_written_out_before_it_is_pinned(monkeypatch):
    """Pinned memory of its layout would have one place for many numbers, and could not be written to."""
    pinned = []

    def pin(tensor):
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, **_: tensor)
    to_device(torch.arange(3)[:, None].expand(3, 2), "cuda")
    assert pinned[0].is_contiguous()
    assert pinned[0].tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.gpu
def test_the_host_runs_ahead():
    wanted = Randomness(0).normal("noise", (4, 12, 40, 64))
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sent = [Randomness(0).normal("noise", (4, 12, 40, 64), device="cuda") for _ in range(8)]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert all(torch.equal(one.cpu(), wanted) for one in sent)
