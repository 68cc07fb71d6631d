"""The estimate of a run of several processes: no device, no other process."""

from __future__ import annotations

from typing import Any

import pytest

from vader_core.errors import VaderError
from vader_core.performance import rest_experts
from vader_core.profiling.estimate import Estimate, estimate
from vader_core.registry import Registry
from vader_core.run.config import validated

WAN = {
    "backbone": {"name": "wan", "weights": "random", "architecture": "tiny", "max_sequence_length": 16},
    "video": {"height": 32, "width": 32, "num_frames": 5},
    "sampler": {"num_steps": 3},
    "reward": [{"name": "brightness"}],
    "prompts": {"source": "fixed"},
    "lora": {"rank": 2},
    "objective": {"reward_gradient": {"gradient": "last"}},
    "validation": {"prompts": 0},
}


def of(registry: Registry, processes: int, **parallel: Any) -> Estimate:
    return estimate(validated({**WAN, "parallel": parallel}), registry, processes=processes)


@pytest.mark.slow
def test_shared_weights_are_halved_and_sent_once_a_call(registry):
    alone, shared = of(registry, 1), of(registry, 2, shard=2)
    assert alone.traffic == {}
    # Small tensors take up a whole grain each, so it is less than half that is saved.
    assert alone.parts["denoiser"] / 2 < shared.parts["denoiser"] < 0.9 * alone.parts["denoiser"]
    # Two steps without a graph, one with, which needs them backwards too; kept, they are sent once before.
    kept = of(registry, 2, shard=2, keep_gathered=True)
    assert kept.traffic["weights"] == pytest.approx(3 / 4 * shared.traffic["weights"])
    assert kept.phases["no-grad steps"] > shared.phases["no-grad steps"]


@pytest.mark.soak
def test_a_shared_sequence_is_exchanged(registry):
    alone, shared = of(registry, 1), of(registry, 2, context=2)
    assert shared.traffic["sequence"] > 0
    assert shared.phases["differentiated steps"] < alone.phases["differentiated steps"]


def test_what_does_not_divide_is_refused(registry):
    with pytest.raises(VaderError, match=r"parallel.shard=3 does not divide"):
        of(registry, 4, shard=3)


@pytest.mark.quick_cases("parallel1-0")
@pytest.mark.parametrize(("parallel", "resting"), [({}, 1), ({"shard": 2}, 0)])
def test_two_experts_in_pieces_stay_on_the_device(registry, monkeypatch, parallel, resting):
    """Whole, the one that does not predict rests in CPU memory; pieces are torch's to move, and stay."""
    put_to_rest: list[object] = []

    class Seen(rest_experts.RestingExperts):
        def __init__(self, *given: Any) -> None:
            put_to_rest.append(given)
            super().__init__(*given)

    monkeypatch.setattr(rest_experts, "RestingExperts", Seen)
    pair = {**WAN, "backbone": {**WAN["backbone"], "architecture": "tiny-a14b"}, "parallel": parallel}
    found = estimate(validated(pair), registry, processes=2)
    assert len(put_to_rest) == resting
    assert ("denoiser" in found.parts) == (not resting)
    if not resting:  # a call gathers one of them, which is no larger than the tiny model
        assert found.traffic["weights"] <= of(registry, 2, shard=2).traffic["weights"]


def test_what_learns_in_pieces_is_booked_with_its_moments(registry):
    """Tensors in pieces are booked by what is held of them, what torch asks of whole shapes is not."""
    full = {**WAN, "tuning": {"kind": "full"}}
    del full["lora"]
    whole, pieces = (
        estimate(validated({**full, "parallel": parallel}), registry, processes=2)
        for parallel in ({}, {"shard": 2})
    )
    learning = "adapter and optimizer"
    assert whole.parts[learning] / 2 < pieces.parts[learning] < 0.8 * whole.parts[learning]
    assert pieces.parts["denoiser"] == whole.parts["denoiser"]
    beside = [one.phases["optimizer"] - sum(one.parts.values()) for one in (whole, pieces)]
    assert beside[1] < beside[0]
