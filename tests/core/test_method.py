"""The method is exact: gradients equal those of a reference loop written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reference_loop import STEPS, assert_equal, by_hand, gradients, step
from reference_loop import make as make_parts

from vader_core.errors import VaderError
from vader_core.lora.adapter import adapter_parameters
from vader_core.method.gradient import parse_gradient
from vader_core.method.guidance import Guidance
from vader_core.method.mixture import Mixture, Term
from vader_core.method.segments import sample_video
from vader_core.randomness import Randomness


def make(registry, *, schedule="flow", **others):
    return make_parts(registry, "tiny", {"schedule": schedule}, **others)


@pytest.mark.parametrize(
    ("gradient", "chosen"),
    [("last", {4}), ("last:3", {2, 3, 4}), ("from:0", {0, 1, 2, 3, 4}), ("steps:1,3", {1, 3})],
)
@pytest.mark.parametrize("detach", [False, True])
def test_gradient_equals_reference_loop(registry, gradient, chosen, detach):
    parts = make(registry)
    found = step(*parts, gradient=parse_gradient(gradient), reward_frames="all", detach_input=detach)
    assert_equal(found, by_hand(*parts, chosen, detach=detach))


def test_refl_equals_reference_loop(registry):
    parts = make(registry)
    found = step(*parts, gradient=parse_gradient("refl:3-3"), reward_frames="all")
    assert_equal(found, by_hand(*parts, {3}, refl_at=3))


def test_random_cut_differentiates_from_the_drawn_step_to_the_end(registry):
    parts = make(registry)
    rng = Randomness(7, 0, 0, (0, 1))
    cut = rng.integer("gradient", 0, STEPS)
    found = step(*parts, gradient=parse_gradient("random"), reward_frames="all")
    assert_equal(found, by_hand(*parts, set(range(cut, STEPS))))


@pytest.mark.parametrize("gradient", ["last", "from:0", "refl:3-3"])
def test_checkpointing_changes_nothing(registry, gradient):
    parts = make(registry)
    plain = step(*parts, gradient=parse_gradient(gradient))
    assert_equal(step(*parts, gradient=parse_gradient(gradient), checkpointing=True), plain, 1e-12)


def test_split_guidance_changes_nothing(registry):
    model, rewards, settings, prompts = make(registry)
    whole = step(model, rewards, settings, prompts)
    split = replace(settings.sampling, guidance=Guidance(2.5, split=True))
    assert_equal(step(model, rewards, settings, prompts, sampling=split), whole, 1e-12)


def test_gradient_of_two_is_the_mean_of_two_of_one(registry):
    parts = make(registry)
    both = step(*parts, gradient=parse_gradient("last:2"))
    one, other = (step(*parts, gradient=parse_gradient("last:2"), indices=(index,)) for index in (0, 1))
    assert_equal(both, {name: (one[name] + other[name]) / 2 for name in one})


def test_base_distance_pulls_towards_the_base_model(registry):
    parts = make(registry)
    plain = step(*parts, gradient=parse_gradient("last:2"))
    pulled = step(*parts, gradient=parse_gradient("last:2"), base_weight=10.0)
    assert any(not torch.allclose(plain[name], pulled[name]) for name in plain)


def test_low_variance_with_one_repeat_is_a_last_step_from_renoised_latents(registry):
    from vader_core.method.denoise import denoise
    from vader_core.method.gradient import NO_GRADIENT

    model, rewards, settings, prompts = make(registry)
    settings = replace(settings, reward_frames="all")
    found = step(model, rewards, settings, prompts, low_variance=1)
    rng = Randomness(7, 0, 0, (0, 1))
    asked = prompts.draw((0, 1), 7)
    for parameter in adapter_parameters(model.denoiser).values():
        parameter.grad = None
    with torch.no_grad():
        conditioning = model.condition(model.encode_text(asked), asked, settings.geometry, rng)
        noise = model.initial_noise(2, settings.geometry, rng)
        clean = denoise(model, settings.sampling, noise, conditioning, NO_GRADIENT, rng).latents
    own = rng.within("low variance", 0)
    tau = settings.sampling.plan.timesteps[-1] / model.schedule.num_train_timesteps
    latents = (1 - tau) * clean + tau * own.normal("renoise", clean.shape[1:], dtype=clean.dtype)
    timestep = torch.full((2,), settings.sampling.plan.timesteps[-1], dtype=clean.dtype)
    velocity = settings.sampling.guidance.predict(model, latents, timestep, conditioning)
    video = model.decode(latents - tau * velocity, settings.geometry)
    brightness, motion = (term.reward for term in rewards.terms)
    loss = 1.5 * brightness(video, asked, own).loss + 0.5 * motion(video, asked, own).loss
    loss.mean().backward()
    assert_equal(found, gradients(model))


def test_a_kept_rollout_is_renoised_and_its_last_step_differentiated(registry):
    from vader_core.method.step import reward_gradient_step

    model, rewards, settings, prompts = make(registry)
    settings = replace(settings, reward_frames="all")
    asked, rng = prompts.draw((0, 1), 7), Randomness(7, 0, 0, (0, 1))
    expected = step(model, rewards, settings, prompts, low_variance=1)
    for parameter in adapter_parameters(model.denoiser).values():
        parameter.grad = None
    kept = reward_gradient_step(model, rewards, asked, settings, rng, backward=lambda loss: None).kept
    counted = []
    predict = model.predict
    model.predict = lambda *given: counted.append(given) or predict(*given)
    result = reward_gradient_step(model, rewards, asked, settings, rng, kept=kept)
    assert_equal(gradients(model), expected)
    assert len(counted) == 1
    assert result.kept is kept


def test_cap_stops_the_gradient(registry):
    model, rewards, settings, prompts = make(registry)
    free = Mixture((rewards.terms[0],))
    capped = Mixture((Term("brightness", rewards.terms[0].reward, 1.5, cap=-100.0),))
    moved = step(model, free, settings, prompts)
    assert max(float(value.abs().max()) for value in moved.values()) > 0
    for parameter in adapter_parameters(model.denoiser).values():
        parameter.grad = None
    still = step(model, capped, settings, prompts)
    assert max(float(value.abs().max()) for value in still.values()) == 0


@pytest.mark.parametrize(
    ("schedule", "sampler"),
    [("epsilon", "ddim"), ("v", "ddim"), ("exploding", "euler"), ("flow", "rectified_flow")],
)
def test_only_the_adapter_gets_a_gradient(registry, schedule, sampler):
    model, rewards, settings, prompts = make(
        registry, schedule=schedule, sampler=sampler, dtype=torch.float32
    )
    step(model, rewards, settings, prompts, gradient=parse_gradient("last:2"))
    names = [name for name, value in model.denoiser.named_parameters() if value.grad is not None]
    assert names
    assert all(".lora_" in name for name in names)


def test_segments_join_without_the_repeated_frame(registry):
    model, _, settings, prompts = make(registry)
    settings = replace(settings, segments=3)
    video, *_ = sample_video(model, prompts.draw((0, 1), 7), settings, Randomness(7, samples=(0, 1)))
    assert video.shape[1] == 3 * settings.geometry.num_frames - 2 == settings.joined_frames


def test_segments_send_the_gradient_through_the_chosen_ones(registry):
    parts = make(registry)
    last = step(*parts, segments=2, reward_frames="all")
    both = step(*parts, segments=2, reward_frames="all", gradient_segments=(0, 1))
    carried = step(*parts, segments=2, reward_frames="all", gradient_segments=(0, 1), carry_gradient=True)
    assert any(not torch.allclose(last[name], both[name]) for name in last)
    assert any(not torch.allclose(both[name], carried[name]) for name in both)


def test_no_global_random_state_is_read_or_changed(registry):
    parts = make(registry)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = step(*parts)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = step(*parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_frames_are_drawn_where_the_gradient_is(registry):
    model, rewards, settings, prompts = make(registry)
    long = replace(settings, segments=3)
    count = settings.geometry.num_frames
    assert long.gradient_frames == tuple(range(2 * (count - 1) + 1, 3 * (count - 1) + 1))
    drawn = {rewards.choose_frames("random", 10, Randomness(i), (8, 9)).of_term[0] for i in range(20)}
    assert drawn == {(8,), (9,)}
    brightness = Mixture((rewards.terms[0],))
    moved = step(model, brightness, long, prompts)
    assert max(float(value.abs().max()) for value in moved.values()) > 0
    with pytest.raises(VaderError, match="none of the scored frames"):
        step(model, brightness, long, prompts, reward_frames="first")
