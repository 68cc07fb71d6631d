"""The field that a component's own message belongs to, and options as they were typed."""

from __future__ import annotations

import pytest
from serving import STAND_IN
from vader_studio.describer import Describer, FieldError, key_of
from vader_studio.tasks import sample_config, typed

from vader_core import api
from vader_core.errors import VaderError
from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin
from vader_core.values import Typed


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ("backbone 'demo': height=65 is not allowed: use 64", "video.height"),
        (
            "backbone 'opensora' (plugin vader-opensora): num_frames=9 is not allowed: use 1",
            "video.num_frames",
        ),
        ("configuration: sampler.num_steps='x' is not allowed: not a number", "sampler.num_steps"),
        ("backbone 'demo': architecture='x' is not allowed: Input should be 'full'", "backbone.architecture"),
        ("sampler 'ddim': eta=-1 is not allowed: greater than 0", "sampler.eta"),
        ("--lora runs/x: made for another model", "loras"),
        ("--precision fp16 needs an accelerator: use bf16 or fp32 on a CPU", "trainer.precision"),
        ("--prompts text:: nothing stands after the colon", "prompt"),
        ("backbone 'wan_i2v' starts from an image: give one", "image"),
        ("something else", ""),
    ],
)
def test_a_message_finds_its_field(message, key):
    assert key_of(message) == key


def test_the_components_own_messages_find_their_fields():
    """What the components say today, so that a message that changes is noticed."""
    registry = add_testing_plugin(load_registry())
    wrong = {
        "video.height": "17",
        "video.num_frames": "x",
        "sampler.num_steps": "0",
        "sampler.name": "none_such",
        "trainer.precision": "fp7",
        "trainer.seed": "-1",
    }
    for key, value in wrong.items():
        request = {
            "values": {"backbone.name": "tiny", "trainer.device": "cpu", key: value},
            "prompt": "a cat",
        }
        with pytest.raises(VaderError) as caught:
            api.check_sample(sample_config(request), registry=registry)
        assert key_of(str(caught.value)) == key, str(caught.value)


def test_values_are_read_by_their_option():
    tree = typed({"video.height": "64", "performance.offload": "false"})
    assert tree == {"video": {"height": "64"}, "performance": {"offload": "false"}}
    assert isinstance(tree["video"]["height"], Typed)
    config = sample_config({"values": {"backbone.name": "demo", "trainer.seed": "7"}, "prompt": "[1, 2]: a"})
    assert config.trainer.seed == 7
    assert config.prompts.source == "text:[1, 2]: a"


def test_a_describer_that_died_is_asked_again(tmp_path):
    describer = Describer(tmp_path / "log", (*STAND_IN, "describe"))
    assert "demo" in describer.ask("lists")["backbones"]
    describer._process.kill()
    describer._process.wait()
    assert "demo" in describer.ask("lists")["backbones"]
    broken = Describer(tmp_path / "log", ("false",))
    with pytest.raises(FieldError, match="could not be asked"):
        broken.ask("lists")
    describer.close()
