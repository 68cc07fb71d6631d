"""A recorded pass must not be replayed for another state of the adapters."""

from __future__ import annotations

import torch
from reference_loop import make

from vader_core.assembly.levers import adapter_state
from vader_core.lora.formats import Adapter


def test_an_adapter_on_other_layers_than_the_trained_one_counts(registry):
    parts = make(registry, "tiny", {"schedule": "flow"})
    denoiser, tuning = parts.backbone.denoiser, parts.model.tuning
    trained = set(tuning.attached.modules)
    name, layer = next(
        (name, layer)
        for name, layer in denoiser.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and ".lora_" not in name
        and name.removesuffix(".base_layer") not in trained
    )
    out, into = layer.weight.shape
    tensors = {f"{name}.lora_A.weight": torch.ones(1, into), f"{name}.lora_B.weight": torch.ones(out, 1)}
    tuning.add("rollout", Adapter(tensors, 1, 1.0), 0.0)
    without = adapter_state(parts.model)
    with tuning.with_scale("rollout", 1.0):
        assert adapter_state(parts.model) != without
    with tuning.off():
        assert adapter_state(parts.model) != without
    assert adapter_state(parts.model) == without
