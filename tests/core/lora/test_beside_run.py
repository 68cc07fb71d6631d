"""Frozen adapters of others in a run: ``lora.beside``."""

from __future__ import annotations

import pytest
import torch

from vader_core.api.configure import complete, configure
from vader_core.api.open_model import open_model
from vader_core.assembly.loading import attach, load_backbone
from vader_core.assembly.prepare import prepare
from vader_core.errors import VaderError
from vader_core.lora.adapter import save_adapter
from vader_core.lora.formats import Adapter
from vader_core.registry import load_registry

torch.set_num_threads(1)
REGISTRY = load_registry()


def config(**lora):
    return configure(
        registry=REGISTRY,
        backbone={"name": "demo"},
        reward="demo_action",
        prompts="text:a red ball moving left",
        lora=lora,
    )


@pytest.fixture
def stranger(tmp_path):
    """An adapter of the demo's model with neither half at zero, as a folder."""
    assembly = prepare(complete(config(rank=2), REGISTRY), REGISTRY)
    load_backbone(assembly)
    tuning = attach(assembly)
    tensors = {name: torch.full_like(value, 0.1) for name, value in tuning.parameters().items()}
    save_adapter(Adapter(tensors, 2, 2.0), tmp_path / "stranger")
    return tmp_path / "stranger"


def test_it_counts_and_does_not_learn(stranger):
    settled = complete(config(rank=2, beside=[f"{stranger}:0.5"]), REGISTRY)
    assert settled.lora.beside == [f"{stranger}:0.5"]
    assembly = prepare(settled, REGISTRY)
    load_backbone(assembly)
    tuning = attach(assembly)
    assert tuning.beside == {"beside1": 0.5}
    names = [name for name, value in assembly.backbone.denoiser.named_parameters() if value.requires_grad]
    assert names
    assert not any("beside1" in name for name in names)


def test_a_model_opened_from_the_same_settings_has_it(stranger):
    model = open_model(config(beside=[f"{stranger}:0.5"]), registry=REGISTRY)
    layers = [part for part in model.backbone.denoiser.modules() if getattr(part, "lora_A", None)]
    assert layers
    assert all(layer.scaling["default"] == 0.5 for layer in layers)


def test_a_place_that_is_not_there_is_named(tmp_path):
    assembly = prepare(complete(config(beside=[str(tmp_path / "none")]), REGISTRY), REGISTRY)
    load_backbone(assembly)
    with pytest.raises(VaderError, match="none: no such file or folder"):
        attach(assembly)


def test_full_weights_have_none(stranger):
    with pytest.raises(VaderError, match=r"lora.beside has no effect"):
        complete(
            configure(
                registry=REGISTRY, backbone={"name": "demo"}, reward="demo_action", prompts="text:a ball",
                tuning={"kind": "full"}, lora={"beside": [str(stranger)]},
            ),
            REGISTRY,
        )  # fmt: skip
