"""Words that YAML 1.1 turns into other values: read by the type of their option."""

import pytest

from vader_core.cli.overrides import apply_options
from vader_core.errors import VaderError
from vader_core.run.config import validated
from vader_core.run.layers import merged, read_yaml, to_yaml


def given(*options, tree=None):
    return validated(apply_options(tree or {}, options))


@pytest.mark.parametrize("quote", ["", '"', "'"])
@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("sampler.guidance_scale", "1:3", lambda c: c.sampler.guidance_scale),
        ("validation.guard", "off", lambda c: c.validation.guard),
        ("prompts.negative_prompt", "blurry: low quality", lambda c: c.prompts.negative_prompt),
        ("prompts.negative_prompt", "no", lambda c: c.prompts.negative_prompt),
        ("prompts.negative_prompt", "1e3", lambda c: c.prompts.negative_prompt),
        ("backbone.aspect_ratio", "9:16", lambda c: c.backbone.options["aspect_ratio"]),
        ("backbone.aspect_ratio", "1:1", lambda c: c.backbone.options["aspect_ratio"]),
        ("backbone.resolution", "012", lambda c: c.backbone.options["resolution"]),
    ],
)
def test_what_was_typed_is_what_is_meant(option, value, found, quote):
    assert found(given(f"{option}={quote}{value}{quote}")) == value


def test_a_file_means_the_same(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "backbone:\n  name: svd\n  aspect_ratio: 9:16\nsampler:\n  guidance_scale: 1:3\nobjective:\n"
        "  reward_gradient:\n    reward_frames: 0\nvalidation:\n  guard: off\ntrainer:\n  lr: 1e-4\n"
    )
    config = validated(merged(read_yaml(path)))
    assert config.sampler.guidance_scale == "1:3"
    assert config.validation.guard == "off"
    assert config.trainer.lr == 1e-4
    assert config.backbone.options["aspect_ratio"] == "9:16"
    assert config.objective["reward_gradient"].options["reward_frames"] == "0"
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert validated(read_yaml(again)).validation.guard == "off"
    assert validated(read_yaml(again)).sampler.guidance_scale == "1:3"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("validation.guard=on", "'on'"),
        ("trainer.max_steps=1:3", "1:3"),
        ("trainer.lr=off", "off"),
        ("trainer.batch_size=0x10", "0x10"),
    ],
)
def test_a_wrong_value_is_refused_as_it_was_typed(option, words):
    with pytest.raises(VaderError, match=words):
        given(option)
