"""What computes in its own dtype."""

import pytest
import torch

from vader_core.precision import wide, widened, without_autocast

CPU = torch.device("cpu")


def test_autocast_is_off_inside_and_as_it_was_afterwards():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with without_autocast(CPU):
            assert not torch.is_autocast_enabled("cpu")
            assert (x @ x).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")
        assert (x @ x).dtype == torch.bfloat16


def test_a_device_without_autocast_is_left_alone():
    x = torch.ones(2, 2, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16), without_autocast(x.device):
        assert (x @ x).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_only_float64_is_wider_than_float32(dtype):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert wide(dtype) == expected
    values = torch.tensor([1.5], dtype=dtype)
    assert widened(values).dtype == expected
    assert (widened(values) is values) == (dtype == expected)
