"""Shortcuts of the no-graph steps: each equals a loop written by hand, and a differentiated step is whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reference_loop import assert_equal, by_hand, make, step

from vader_core.errors import VaderError
from vader_core.method.gradient import parse_gradient
from vader_core.method.guidance import Guidance
from vader_core.method.segments import sample_video
from vader_core.method.shortcuts import Shortcuts, ShortPredictions, parse_interval
from vader_core.randomness import Randomness


@pytest.fixture
def parts(registry):
    return make(registry, "tiny", {"schedule": "flow"})


@pytest.fixture
def branches(monkeypatch, parts):
    """How many branches each prediction ran, in order."""
    counted = []
    plain = type(parts[0]).predict

    def predict(self, latents, timestep, conditioning):
        counted.append(len(latents) // 2)
        return plain(self, latents, timestep, conditioning)

    monkeypatch.setattr(type(parts[0]), "predict", predict)
    return counted


@pytest.mark.parametrize(("gradient", "chosen"), [("last", {4}), ("steps:1,4", {1, 4})])
def test_guidance_interval_equals_a_loop_by_hand(parts, branches, gradient, chosen):
    choice = parse_gradient(gradient)
    found = step(*parts, gradient=choice, reward_frames="all", shortcuts=Shortcuts(guidance_interval=(2, 3)))
    assert branches == [2 if i in {2, 3} | chosen else 1 for i in range(5)]

    def guide(i, conditional, unconditional):
        return unconditional + (2.5 if i in (2, 3) else 1.0) * (conditional - unconditional)

    assert_equal(found, by_hand(*parts, chosen, guide=guide))


def test_guidance_cache_equals_a_loop_by_hand(parts, branches):
    found = step(*parts, reward_frames="all", shortcuts=Shortcuts(guidance_cache=3))
    assert branches == [2, 1, 1, 2, 2]
    kept = {}

    def guide(i, conditional, unconditional):
        if i in (0, 3):
            kept["difference"] = conditional - unconditional
        return conditional + 1.5 * kept["difference"]

    assert_equal(found, by_hand(*parts, {4}, guide=guide))


def test_the_two_together(parts, branches):
    step(*parts, shortcuts=Shortcuts(guidance_interval=(1, 3), guidance_cache=2))
    assert branches == [1, 2, 1, 2, 2]


def test_low_variance_leaves_out_what_its_rollout_may(parts, branches):
    step(*parts, low_variance=2, shortcuts=Shortcuts(guidance_cache=2))
    assert branches == [2, 1, 2, 1, 2, 2, 2]


def test_reused_guidance_keeps_a_scale_for_each_frame(parts):
    model, _, settings, prompts = parts
    rng, asked = Randomness(7, 0, 0, (0, 1)), prompts.draw((0, 1), 7)
    conditioning = model.condition(model.encode_text(asked), asked, settings.geometry, rng)
    latents = model.initial_noise(2, settings.geometry, rng)
    timestep = latents.new_full((2,), 500.0)
    short = ShortPredictions(model, Guidance((1.0, 3.0)), Shortcuts(guidance_cache=2))
    fresh, reused = (short.predict(i, latents, timestep, conditioning) for i in (0, 1))
    expected = Guidance((1.0, 3.0)).predict(model, latents, timestep, conditioning)
    assert_equal({"fresh": fresh, "reused": reused}, {"fresh": expected, "reused": expected})


@pytest.mark.parametrize(
    ("shortcuts", "scale", "message"),
    [
        (Shortcuts(guidance_cache=2), 1.0, "guidance is off"),
        (Shortcuts(guidance_interval=(0, 1)), 1.0, "guidance is off"),
        (Shortcuts(guidance_interval=(2, 5)), 3.0, "HI <= 4"),
        (Shortcuts(guidance_interval=(3, 2)), 3.0, "HI <= 4"),
        (Shortcuts(guidance_cache=6), 3.0, "use 1 to 5"),
        (Shortcuts(feature_cache=6), 3.0, "use 1 to 5"),
    ],
)
def test_what_has_no_effect_is_refused(shortcuts, scale, message):
    with pytest.raises(VaderError, match=message):
        shortcuts.check(Guidance(scale), 5)


@pytest.mark.parametrize("text", ["", "3", "1:4", "a-b"])
def test_other_forms_of_an_interval_are_refused(text):
    with pytest.raises(VaderError, match="LO-HI"):
        parse_interval(text)


def test_sampling_is_whole(parts, branches):
    model, _, settings, prompts = parts
    short = replace(settings, shortcuts=Shortcuts(guidance_interval=(1, 2), guidance_cache=2))
    sample_video(model, prompts.draw((0, 1), 7), short, Randomness(7, 0, 0, (0, 1)))
    assert branches == [2] * 5


def test_the_options_reach_the_step(vader, tmp_path, branches):
    command = ["train", "--backbone", "tiny", "--reward", "brightness", "--device", "cpu", "--num-steps", "5"]
    command += ["--max-steps", "1", "--batch-size", "2", "--out", tmp_path / "run"]
    command += ["-o", "performance.guidance_cache=2", "-o", "performance.guidance_interval=1-3"]
    assert vader(*command, "-o", "validation.prompts=0") == 0
    assert branches == [1, 2, 1, 2, 2]
