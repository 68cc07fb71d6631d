"""What operations leave on paper: the second time as the first, without being worked out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vader_core.profiling import outcomes
from vader_core.profiling.paper_device import PaperDevice, on_paper

A = torch.ops.aten
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_outcomes", {})


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The operations that were worked out, in their order."""
    seen: list[Any] = []
    real = PaperDevice._work_out

    def noted(self: PaperDevice, func: Any, *rest: Any) -> Any:
        seen.append(func)
        return real(self, func, *rest)

    monkeypatch.setattr(PaperDevice, "_work_out", noted)
    return seen


def makes(out: Any) -> list[Any]:
    """Of every result all that a kernel would ask for."""
    every = out if isinstance(out, tuple | list) else [out]
    return [
        (tuple(one.shape), one.stride(), one.storage_offset(), one.dtype, one.device, one.requires_grad)
        if isinstance(one, Tensor)
        else one
        for one in every
    ]


OPERATIONS: dict[str, Callable[[Tensor], Any]] = {
    "sum of two": lambda x: x + x,
    "cast": lambda x: x.to(torch.bfloat16),
    "moved": lambda x: x.to("cpu"),
    "reshaped": lambda x: x.view(6, 4),
    "turned": lambda x: x.permute(2, 0, 1),
    "sliced": lambda x: x[1:, ::2],
    "copied as it lies": lambda x: x.permute(2, 0, 1).clone(),
    "split": lambda x: x.split(2, dim=1),
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=False),
    "made": lambda x: torch.empty(3, 5, device=x.device),
    "drawn": lambda x: x.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(0)),
    "in place": lambda x: x.mul_(2.0),
    "normalised": lambda x: A.native_layer_norm(x, [4], None, None, 1e-5),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "convolved": lambda x: F.conv1d(x, x.new_empty(2, 3, 1)),
}


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_the_second_time_is_as_the_first(name: str, worked_out: list[Any]) -> None:
    run = OPERATIONS[name]
    with on_paper() as device, torch.no_grad():
        found, worked = [], []
        for _ in range(2):
            x = torch.empty(2, 3, 4, device=CUDA)
            device.ledger.reset()
            before = device.ledger.live
            out = run(x)
            found.append((makes(out), device.ledger.live - before, device.ledger.peak - before))
            shares = [one.untyped_storage()._cdata == x.untyped_storage()._cdata for one in _tensors(out)]
            found[-1] += (shares, out is x)
            worked.append(len(worked_out))
            del x, out
            assert device.ledger.live == 0
        assert found[0] == found[1]
        assert worked[0] == worked[1]


def _tensors(out: Any) -> list[Tensor]:
    return [one for one in (out if isinstance(out, tuple | list) else [out]) if isinstance(one, Tensor)]


def test_numbers_of_another_type_are_another_call() -> None:
    with on_paper():
        whole = torch.ones(3, dtype=torch.int64, device=CUDA)
        assert [(whole * factor).dtype for factor in (1, 1.0, True, 1)] == [
            *(torch.int64, torch.float32, torch.int64, torch.int64)
        ]


def test_the_dtype_that_is_made_by_default_counts() -> None:
    found = []
    with on_paper():
        try:
            for dtype in (torch.float32, torch.float64, torch.float32):
                torch.set_default_dtype(dtype)
                found.append(torch.empty(3, device=CUDA).dtype)
        finally:
            torch.set_default_dtype(torch.float32)
    assert found == [torch.float32, torch.float64, torch.float32]


def test_an_emptied_storage_stays_empty() -> None:
    """Gathered weights are emptied in place, and looked at while they are."""
    with on_paper() as device:
        full, emptied = (torch.empty(4, 128, device=CUDA) for _ in range(2))
        emptied.untyped_storage().resize_(0)
        live = device.ledger.live
        for one in (full, emptied, full, emptied):
            assert one.view(512).shape == one.t().reshape(-1).shape == (512,)
        assert emptied.untyped_storage().nbytes() == 0
        assert device.ledger.live == live


def test_what_reads_values_is_never_remembered(worked_out: list[Any]) -> None:
    with on_paper():
        x, mask = torch.zeros(3, 4, device=CUDA), torch.ones(3, dtype=torch.bool, device=CUDA)
        for given, rows in ((mask, 3), (~mask, 0), (mask, 3)):
            assert len(x[given]) == len(given.nonzero()) == rows
    assert not any(key[0] in (A.index.Tensor, A.nonzero.default) for key in outcomes._outcomes)
    assert worked_out.count(A.index.Tensor) == 3
