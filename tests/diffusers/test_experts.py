"""Wan A14B's idle expert on the paper device: only one is on the device, and a step can be followed."""

from __future__ import annotations

import pytest
import torch

from vader_core.api.configure import complete, configure
from vader_core.assembly.prepare import prepare
from vader_core.profiling import estimate
from vader_core.profiling.estimate import memory_facts
from vader_core.registry import load_registry

torch.set_num_threads(1)
REGISTRY = load_registry()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "num_steps"),
    [
        (1.0, 4),
        pytest.param(12.0, 40, marks=pytest.mark.soak),
    ],  # with 12 a rollout of two steps would never come to the low expert, which learns
)
def test_the_idle_expert_is_not_on_the_device(shift, num_steps):
    config = configure(
        registry=REGISTRY,
        backbone={"name": "wan", "weights": "random", "model": "tiny-a14b", "max_sequence_length": 4},
        reward="compression",
        prompts="text:a red boat",
        sampler={"name": "flow_unipc", "shift": shift, "num_steps": num_steps},
        trainer={"precision": "bf16"},
        performance={"gradient_checkpointing": True},
    )
    whole = prepare(complete(config, REGISTRY), REGISTRY).backbone.build_denoiser()
    both = sum(value.numel() for value in whole.parameters()) * 2 / 2**30
    facts = memory_facts(config, REGISTRY, validation=False)
    assert facts["estimated_peak_gib"], facts["estimate"]
    assert facts["estimated_parts_gib"].get("denoiser", 0.0) < 0.6 * both


@pytest.mark.soak
def test_steps_of_both_experts_are_extrapolated_exactly(monkeypatch):
    config = configure(
        registry=REGISTRY,
        backbone={"name": "wan", "weights": "random", "model": "tiny-a14b", "max_sequence_length": 4}
        | {"expert": "both"},
        reward="compression",
        prompts="text:a red boat",
        sampler={"name": "flow_unipc", "shift": 5.0, "num_steps": 8},
        objective={"reward_gradient": {"gradient": "last:6"}},
    )
    quick = memory_facts(config, REGISTRY, validation=False)
    monkeypatch.setattr(estimate, "TRACED", 6)
    whole = memory_facts(config, REGISTRY, validation=False)
    assert quick["estimated_peak_gib"] == pytest.approx(whole["estimated_peak_gib"], rel=0.002)
