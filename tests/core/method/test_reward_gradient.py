"""The method is exact: gradients equal those of a reference loop written by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from reference_loop import STEPS, assert_equal, batch_of, by_hand, forget, gradients, step, update
from reference_loop import make as make_parts

from vader_core.errors import VaderError
from vader_core.method.denoise import denoise
from vader_core.method.gradient import NO_GRADIENT, Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.mixture import Mixture, Term
from vader_core.method.model import Stages
from vader_core.method.segments import Segments, sample_video
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
    found = step(parts, gradient=gradient, reward_frames="all", detach_input=detach)
    assert_equal(found, by_hand(parts, chosen, detach=detach))


def test_refl_equals_reference_loop(registry):
    parts = make(registry)
    found = step(parts, gradient="refl:3-3", reward_frames="all")
    assert_equal(found, by_hand(parts, {3}, refl_at=3))


def test_random_cut_differentiates_from_the_drawn_step_to_the_end(registry):
    parts = make(registry)
    rng = Randomness(7, 0, 0, (0, 1))
    cut = rng.integer("gradient", 0, STEPS)
    found = step(parts, gradient="random", reward_frames="all")
    assert_equal(found, by_hand(parts, set(range(cut, STEPS))))


@pytest.mark.parametrize("gradient", ["last", "from:0", "refl:3-3"])
def test_checkpointing_changes_nothing(registry, gradient):
    parts = make(registry)
    plain = step(parts, gradient=gradient)
    assert_equal(step(parts.with_model(checkpointing=True), gradient=gradient), plain, 1e-12)


def test_split_guidance_changes_nothing(registry):
    parts = make(registry)
    split = parts.with_model(guidance=Guidance(2.5, split=True))
    assert_equal(step(split), step(parts), 1e-12)


@pytest.mark.parametrize("gradient", ["last", "from:0", "refl:3-3"])
@pytest.mark.parametrize("segments", [1, 2])
def test_network_by_network_is_the_same_gradient(registry, gradient, segments):
    parts = make(registry)
    options = {"gradient": gradient, "reward_frames": "all", "segments": segments}
    if segments > 1:
        options |= {"gradient_segments": [0, 1], "carry_gradient": True}
    assert_equal(step(parts.with_model(stages=Stages()), **options), step(parts, **options), 1e-12)


def test_gradient_of_two_is_the_mean_of_two_of_one(registry):
    parts = make(registry)
    both = step(parts, gradient="last:2")
    one, other = (step(parts, gradient="last:2", indices=(index,)) for index in (0, 1))
    assert_equal(both, {name: (one[name] + other[name]) / 2 for name in one})


@pytest.mark.parametrize(("gradient", "chosen"), [("last:2", {3, 4}), ("steps:1,3", {1, 3})])
def test_base_weight_adds_the_squared_distance_to_the_base_model(registry, gradient, chosen):
    parts = make(registry)
    found = step(parts, gradient=gradient, reward_frames="all", base_weight=10.0)
    assert_equal(found, by_hand(parts, chosen, pull=10.0))


def renoised_by_hand(parts, clean, conditioning, batch):
    """The last step from re-noised ``clean``, decoded and scored; leaves the gradients."""
    own = batch.rng.within("low variance", 0)
    plan, schedule = parts.model.plan(parts.geometry), parts.backbone.schedule
    tau = plan.timesteps[-1] / schedule.num_train_timesteps
    latents = (1 - tau) * clean + tau * own.normal("renoise", clean.shape[1:], dtype=clean.dtype)
    timestep = torch.full((2,), plan.timesteps[-1], dtype=clean.dtype)
    velocity = parts.model.guidance.predict(parts.backbone, latents, timestep, conditioning).value
    video = parts.backbone.decode(latents - tau * velocity, parts.geometry)
    brightness, motion = (term.reward for term in parts.rewards.terms)
    loss = 1.5 * brightness(video, batch.prompts, own).loss + 0.5 * motion(video, batch.prompts, own).loss
    loss.mean().backward()
    return gradients(parts)


def sampled(parts, batch):
    """A whole rollout without a graph, and what it was made from."""
    with torch.no_grad():
        conditioning = parts.model.condition(batch.prompts, parts.geometry, batch.rng)
        noise = parts.backbone.initial_noise(2, parts.geometry, batch.rng)
        found = denoise(parts.model, noise, conditioning, parts.geometry, NO_GRADIENT, batch.rng)
    return found.latents, conditioning


def test_low_variance_with_one_repeat_is_a_last_step_from_renoised_latents(registry):
    parts = make(registry)
    found = step(parts, low_variance=1, reward_frames="all")
    forget(parts)
    batch = batch_of(parts)
    assert_equal(found, renoised_by_hand(parts, *sampled(parts, batch), batch))


def test_low_variance_is_the_mean_of_its_repeats(registry):
    parts = make(registry)
    losses = []
    update(parts, low_variance=3, reward_frames="all", backward=lambda loss: losses.append(loss.detach()))
    (result,) = update(parts, low_variance=3, reward_frames="all")
    assert len(losses) == 3
    assert torch.equal(result.loss, torch.stack(losses).sum())
    assert result.reward_queries == 6


def test_an_inner_update_differentiates_the_last_step_of_the_kept_rollout(registry):
    parts = make(registry)
    counted = []
    predict = parts.backbone.predict
    parts.backbone.predict = lambda *given: counted.append(given) or predict(*given)
    update(parts, inner_updates=2, reward_frames="all", updates=2)
    found, calls = gradients(parts), len(counted)
    assert calls == STEPS + 1
    forget(parts)
    batch = batch_of(parts)
    assert_equal(found, renoised_by_hand(parts, *sampled(parts, batch), batch.within("inner update", 1)))


def test_cap_stops_the_gradient(registry):
    parts = make(registry)
    free = replace(parts, rewards=Mixture((parts.rewards.terms[0],)))
    terms = (Term("brightness", parts.rewards.terms[0].reward, 1.5, cap=-100.0),)
    capped = replace(parts, rewards=Mixture(terms))
    assert max(float(value.abs().max()) for value in step(free).values()) > 0
    assert max(float(value.abs().max()) for value in step(capped).values()) == 0


@pytest.mark.parametrize(
    ("schedule", "sampler"),
    [("epsilon", "ddim"), ("v", "ddim"), ("exploding", "euler"), ("flow", "rectified_flow")],
)
def test_only_the_adapter_gets_a_gradient(registry, schedule, sampler):
    parts = make(registry, schedule=schedule, sampler=sampler, dtype=torch.float32)
    step(parts, gradient="last:2")
    named = parts.backbone.denoiser.named_parameters()
    names = [name for name, value in named if value.grad is not None]
    assert names
    assert all(".lora_" in name for name in names)


def test_segments_join_without_the_repeated_frame(registry):
    parts, segments = make(registry), Segments(3)
    rng = Randomness(7, samples=(0, 1))
    video, _ = sample_video(parts.model, parts.prompts.draw([0, 1], 7), parts.geometry, rng, segments)
    count = parts.geometry.num_frames
    assert video.shape[1] == 3 * count - 2 == segments.joined_frames(parts.geometry)


def two_segments_by_hand(parts, *, first, carried):
    """Two rollouts of which the last step is differentiated, the second from the first's last frame."""
    batch, last = batch_of(parts), parts.geometry.num_frames - 1
    image, pieces = None, []
    forget(parts)
    for segment in range(2):
        own = batch.rng.within("segment", segment)
        drawn = Drawn(frozenset({STEPS - 1})) if segment == 1 or first else NO_GRADIENT
        graph = bool(drawn.steps) or (image is not None and image.requires_grad)
        with torch.set_grad_enabled(graph):
            conditioning = parts.model.condition(batch.prompts, parts.geometry, own, image=image)
            latents = parts.model.rollout(conditioning, parts.geometry, own, drawn).latents
            video = parts.backbone.decode(latents, parts.geometry)
        pieces.append(video if segment == 0 else video[:, 1:])
        image = video[:, last].clamp(0, 1) if carried else video[:, last].clamp(0, 1).detach()
    joined = torch.cat(pieces, dim=1)
    brightness, motion = (term.reward for term in parts.rewards.terms)
    total = 1.5 * brightness(joined, batch.prompts, batch.rng).loss
    total = total + 0.5 * motion(joined, batch.prompts, batch.rng).loss
    total.mean().backward()
    return gradients(parts)


@pytest.mark.parametrize(("first", "carried"), [(False, False), (True, False), (True, True)])
def test_segments_send_the_gradient_through_the_chosen_ones(registry, first, carried):
    parts = make(registry)
    chosen = [0, 1] if first else None
    found = step(parts, segments=2, reward_frames="all", gradient_segments=chosen, carry_gradient=carried)
    assert_equal(found, two_segments_by_hand(parts, first=first, carried=carried))


def test_no_global_random_state_is_read_or_changed(registry):
    parts = make(registry)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = step(parts)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = step(parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_frames_are_drawn_where_the_gradient_is(registry):
    parts = make(registry)
    count = parts.geometry.num_frames
    differentiable = Segments(3).gradient_frames(parts.geometry)
    assert differentiable == tuple(range(2 * (count - 1) + 1, 3 * (count - 1) + 1))
    drawn = {parts.rewards.choose_frames("random", 10, Randomness(i), (8, 9)).of_term[0] for i in range(20)}
    assert drawn == {(8,), (9,)}
    brightness = replace(parts, rewards=Mixture((parts.rewards.terms[0],)))
    moved = step(brightness, segments=3)
    assert max(float(value.abs().max()) for value in moved.values()) > 0
    with pytest.raises(VaderError, match="none of the scored frames"):
        step(brightness, segments=3, reward_frames="first")


def test_the_rollout_shows_every_step_to_who_watches(registry):
    parts = make(registry)
    batch, seen = batch_of(parts), []
    with torch.no_grad():
        conditioning = parts.model.condition(batch.prompts, parts.geometry, batch.rng)
        found = parts.model.rollout(conditioning, parts.geometry, batch.rng, watch=seen.append)
    plan = parts.model.plan(parts.geometry)
    assert [one.index for one in seen] == list(range(STEPS))
    assert [one.timestep for one in seen] == list(plan.timesteps)
    assert all(torch.equal(one.after, two.latents) for one, two in itertools.pairwise(seen))
    assert torch.equal(seen[-1].after, found.latents)
