"""The published settings, as this package ships them."""

from __future__ import annotations

import pytest

from vader_core.first_party import FIRST_PARTY
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.run.layers import read_recipe, recipes

RECIPES = ["videocrafter_pick_score", "videocrafter_hps_aesthetic"]


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def test_they_are_found(registry):
    assert set(RECIPES) <= recipes(registry).keys()


@pytest.mark.parametrize("name", RECIPES)
def test_published_settings(registry, name):
    config = validated(read_recipe(registry, name))
    assert recipes(registry)[name]["summary"]
    assert config.backbone.name == "videocrafter"
    assert (config.video.height, config.video.width, config.video.num_frames, config.video.fps) == (
        320,
        512,
        12,
        24,
    )
    assert (config.sampler.num_steps, config.sampler.guidance_scale) == (25, 12.0)
    assert config.lora.alpha == 8
    assert config.lora.rank == {"videocrafter_pick_score": 16, "videocrafter_hps_aesthetic": 8}[name]
    assert (config.trainer.lr, config.trainer.accumulate, config.trainer.max_steps) == (2e-4, 8, 450)
    assert {item.name for item in config.reward} <= set(FIRST_PARTY["vader-rewards"]["reward"])
    registry.get("backbone", config.backbone.name).options(config.backbone.options)
    registry.get("sampler", config.sampler.name).options(config.sampler.options)
