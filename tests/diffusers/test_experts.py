"""Wan A14B's idle expert on the paper device: only one is on the device, and a step can be followed."""

from __future__ import annotations

import torch

from vader_core.api.configure import complete, configure
from vader_core.assembly.prepare import prepare
from vader_core.profiling.estimate import memory_facts
from vader_core.registry import load_registry

torch.set_num_threads(1)
REGISTRY = load_registry()


def test_the_idle_expert_is_not_on_the_device():
    config = configure(
        registry=REGISTRY,
        backbone={"name": "wan", "weights": "random", "model": "tiny-a14b", "max_sequence_length": 4},
        reward="compression",
        prompts="text:a red boat",
        sampler={"name": "flow_unipc", "shift": 1.0, "num_steps": 4},  # the last step is the low expert's
        trainer={"precision": "bf16"},
        performance={"gradient_checkpointing": True},
    )
    whole = prepare(complete(config, REGISTRY), REGISTRY).backbone.build_denoiser()
    both = sum(value.numel() for value in whole.parameters()) * 2 / 2**30
    facts = memory_facts(config, REGISTRY, validation=False)
    assert facts["estimated_peak_gib"], facts["estimate"]
    assert facts["estimated_parts_gib"].get("denoiser", 0.0) < 0.6 * both
