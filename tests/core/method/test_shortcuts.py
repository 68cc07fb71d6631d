"""Shortcuts of the no-grad steps: each equals a loop written by hand, and a differentiated step is whole."""

from __future__ import annotations

import pytest
import torch
from reference_loop import STEPS, assert_equal, batch_of, by_hand, make, step

from vader_core.errors import VaderError
from vader_core.method.guidance import Guidance
from vader_core.method.segments import Segments, sample_video
from vader_core.method.shortcuts import Shortcuts, ShortPredictions, parse_interval


@pytest.fixture
def parts(registry):
    return make(registry, "tiny", {"schedule": "flow"})


@pytest.fixture
def branches(monkeypatch, parts):
    """How many branches each prediction ran, in order."""
    counted = []
    plain = type(parts.backbone).predict

    def predict(self, latents, timestep, conditioning):
        counted.append(len(latents) // 2)
        return plain(self, latents, timestep, conditioning)

    monkeypatch.setattr(type(parts.backbone), "predict", predict)
    return counted


def shortened(parts, **options):
    """The same parts, of which the no-grad steps of a training rollout leave something out."""
    made = ShortPredictions(parts.backbone, parts.model.guidance, Shortcuts(**options))
    return parts.with_model(shortcuts=made)


@pytest.mark.parametrize(("gradient", "chosen"), [("last", {4}), ("steps:1,4", {1, 4})])
def test_guidance_interval_equals_a_loop_by_hand(parts, branches, gradient, chosen):
    found = step(shortened(parts, guidance_interval=(2, 3)), gradient=gradient, reward_frames="all")
    assert branches == [2 if i in {2, 3} | chosen else 1 for i in range(5)]

    def guide(i, conditional, unconditional):
        return unconditional + (2.5 if i in (2, 3) else 1.0) * (conditional - unconditional)

    assert_equal(found, by_hand(parts, chosen, guide=guide))


def test_guidance_cache_equals_a_loop_by_hand(parts, branches):
    found = step(shortened(parts, guidance_cache=3), reward_frames="all")
    assert branches == [2, 1, 1, 2, 2]
    kept = {}

    def guide(i, conditional, unconditional):
        if i in (0, 3):
            kept["difference"] = conditional - unconditional
        return conditional + 1.5 * kept["difference"]

    assert_equal(found, by_hand(parts, {4}, guide=guide))


def test_the_two_together(parts, branches):
    step(shortened(parts, guidance_interval=(1, 3), guidance_cache=2))
    assert branches == [1, 2, 1, 2, 2]


def test_low_variance_leaves_out_what_its_rollout_may(parts, branches):
    step(shortened(parts, guidance_cache=2), low_variance=2)
    assert branches == [2, 1, 2, 1, 2, 2, 2]


@torch.no_grad()
def predictions(parts, guidance, steps, **options):
    """What the shortened no-grad prediction of each of ``steps`` gives, at the same latents and time."""
    batch = batch_of(parts)
    conditioning = parts.model.condition(batch.prompts, parts.geometry, batch.rng)
    latents = parts.backbone.initial_noise(2, parts.geometry, batch.rng)
    timestep = latents.new_full((2,), 500.0)
    short = ShortPredictions(parts.backbone, guidance, Shortcuts(**options))
    found = {i: short.predict(i, latents, timestep, conditioning).value for i in steps}
    return found, guidance.predict(parts.backbone, latents, timestep, conditioning).value


def test_reused_guidance_keeps_a_scale_for_each_frame(parts):
    found, whole = predictions(parts, Guidance((1.0, 3.0)), (0, 1), guidance_cache=2)
    assert_equal(found, {0: whole, 1: whole})


def test_reused_guidance_leaves_the_unguided_channels_alone(parts, branches):
    guidance = Guidance(2.5, channels=3)
    found, whole = predictions(parts, guidance, (0, 1), guidance_cache=2)
    assert branches == [2, 1, 2]
    assert_equal(found, {0: whole, 1: whole})
    everywhere = predictions(parts, Guidance(2.5), (0,), guidance_cache=2)[1]
    assert torch.equal(everywhere[:, :3], whole[:, :3])
    assert not torch.equal(everywhere[:, 3:], whole[:, 3:])


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
    short = shortened(parts, guidance_interval=(1, 2), guidance_cache=2).model
    batch = batch_of(parts)
    sample_video(short, batch.prompts, parts.geometry, batch.rng, Segments())
    assert branches == [2] * STEPS


def test_nothing_is_kept_from_one_rollout_to_the_next(parts, branches):
    short = shortened(parts, guidance_cache=STEPS)
    for _ in range(2):
        step(short)
    assert branches == 2 * [2, 1, 1, 1, 2]


def test_the_options_reach_the_step(vader, tmp_path, branches):
    command = ["train", "--backbone", "tiny", "--reward", "brightness", "--device", "cpu", "--num-steps", "5"]
    command += ["--max-steps", "1", "--batch-size", "2", "--out", tmp_path / "run"]
    command += ["-o", "performance.guidance_cache=2", "-o", "performance.guidance_interval=1-3"]
    assert vader(*command, "--prompts", "fixed", "-o", "validation.prompts=0") == 0
    assert branches == [1, 2, 1, 2, 2]
