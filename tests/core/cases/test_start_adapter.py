"""An adapter to start from has its own shape."""

import pytest

from vader_core.assembly.resolve import resolve
from vader_core.errors import VaderError
from vader_core.run.config import validated


def asked(**lora):
    return validated({"backbone": {"name": "tiny"}, "reward": [{"name": "brightness"}], "lora": lora})


@pytest.mark.parametrize("shape", [{"rank": 64}, {"alpha": 3.0}, {"targets": ["to_q"]}])
def test_a_shape_beside_a_start_is_refused(registry, shape):
    name = next(iter(shape))
    with pytest.raises(VaderError, match=rf"--lora-{name} .*has its own rank, alpha and modules"):
        resolve(asked(start="runs/a", **shape), registry)


def test_no_other_shape_is_recorded_than_is_trained(registry):
    found = resolve(asked(start="runs/a"), registry)
    assert (found.lora.rank, found.lora.alpha, found.lora.targets) == (None, None, None)
    assert resolve(found, registry) == found


def test_a_fresh_adapter_has_rank_and_alpha_of_sixteen(registry):
    found = resolve(asked(), registry)
    assert (found.lora.rank, found.lora.alpha) == (16, 16.0)
    assert resolve(found, registry) == found
