"""What a process holds of a tensor that is whole."""

import pytest
import torch

from vader_core.parallel.whole import own_piece


@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_of_a_whole_tensor_all_is_ones_own(shape):
    tensor = torch.zeros(shape)  # a reward's logit scale is a number without rows
    own, rows = own_piece(tensor)
    assert own is tensor
    assert rows.start == 0
    assert rows.stop == (shape[0] if shape else None)
