"""The published settings, as this package ships them."""

from __future__ import annotations

import pytest

from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.run.layers import read_recipe, recipes

REWARDS = {"modelscope_aesthetic": "aesthetic", "modelscope_hps": "hps", "modelscope_actpred": "actpred"}


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.mark.parametrize("name", REWARDS)
def test_published_settings(registry, name):
    config = validated(read_recipe(registry, name))
    assert recipes(registry)[name]["summary"]
    assert config.backbone.name == "modelscope"
    video = config.video
    assert (video.height, video.width, video.num_frames) == (384, 384, 16)
    assert (config.sampler.num_steps, config.sampler.guidance_scale) == (25, 9.0)
    assert (config.lora.rank, config.lora.alpha, config.lora.targets) == (16, 16, ["all"])
    trainer = config.trainer
    assert (trainer.lr, trainer.weight_decay, trainer.max_grad_norm, trainer.seed) == (2e-4, 0.0, 1.0, 64)
    assert trainer.max_steps * trainer.accumulate * trainer.batch_size == 10_000
    assert [item.name for item in config.reward] == [REWARDS[name]]
    registry.get("backbone", "modelscope").options(config.backbone.options)
    registry.get("sampler", config.sampler.name).options(config.sampler.options)
    reward = registry.get("reward", REWARDS[name]).options(config.reward[0].options)
    if name == "modelscope_aesthetic":
        assert (reward.target, reward.grad_scale) == (10.0, 0.1)
