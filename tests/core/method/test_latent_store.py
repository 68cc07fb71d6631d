"""Updates at any step from latents that are kept: exact, resumable, and refused where they cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference_loop import STEPS, assert_equal, batch_of, forget, gradients, step
from reference_loop import make as make_parts
from update_at_a_step import clean_of, levels, loss_of, predicted

from vader_core.errors import VaderError
from vader_core.method.latent_store import LatentStore, Stored
from vader_core.method.objective import Batch
from vader_core.method.options import RewardGradientOptions
from vader_core.method.reward_gradient import RewardGradient
from vader_core.prompts import Clip, Prompt
from vader_core.randomness import Randomness

#: Every sampler of the core, on each kind of model that it follows.
SAMPLERS = [
    ("ddim", "epsilon", {}),
    ("ddim", "v", {"eta": 1.0}),
    ("dpmpp", "v", {}),
    ("euler", "epsilon", {}),
    ("euler", "exploding", {}),
    ("iddpm", "epsilon", {}),
    ("rectified_flow", "flow", {}),
    ("rectified_flow", "flow", {"noise_level": 0.7}),
    ("flow_euler", "flow", {"stochastic": True}),
    ("flow_unipc", "flow", {}),
]


def make(registry, sampler="rectified_flow", schedule="flow", options=None):
    parts = make_parts(registry, "tiny", {"schedule": schedule}, sampler=sampler)
    if options:
        made = registry.get("sampler", sampler).make(options, device="cpu", dtype=torch.float64)
        parts = parts.with_model(sampler=made)
    return parts


def by_hand(parts, at):
    """Sample, noise to step ``at``, predict, find the clean latents, decode, score; leaves the gradients."""
    batch = batch_of(parts)
    with torch.no_grad():
        conditioning = parts.model.condition(batch.prompts, parts.geometry, batch.rng)
        clean = parts.model.rollout(conditioning, parts.geometry, batch.rng).latents
    own = batch.rng.within("low variance", 0)
    noise = own.normal("renoise", clean.shape[1:], dtype=clean.dtype)
    alpha, sigma = levels(parts, at)
    forget(parts)
    given = alpha * clean + sigma * noise
    found = clean_of(parts, given, predicted(parts, given, at, conditioning), alpha, sigma)
    loss_of(parts, found, batch, own).backward()
    return gradients(parts)


@pytest.mark.parametrize(("sampler", "schedule", "options"), SAMPLERS)
@pytest.mark.parametrize("at", [1, STEPS - 1])
def test_an_update_at_any_step_equals_one_by_hand(registry, sampler, schedule, options, at):
    parts = make(registry, sampler, schedule, options)
    found = step(parts, store="rollouts", gradient=f"steps:{at}", reward_frames="all")
    assert_equal(found, by_hand(parts, at))


def test_the_step_is_drawn_anew_for_every_update(registry):
    parts = make(registry)
    drawn = set()
    objective = RewardGradient(RewardGradientOptions(store="rollouts", gradient="random:1-3", low_variance=2))
    objective.use(parts.rewards)
    for number in range(8):
        batch = replace(batch_of(parts), rng=Randomness(7, number, 0, (0, 1)))
        (prepared,) = objective.prepare(parts.model, [batch], None)
        drawn |= objective.step(parts.model, prepared, torch.Tensor.backward, 0).steps
    assert drawn == {1, 2, 3}


@pytest.mark.parametrize(("sampler", "schedule"), [("rectified_flow", "flow"), ("ddim", "epsilon")])
def test_direct_align_removes_the_noise_that_is_known(registry, sampler, schedule):
    parts, at = make(registry, sampler, schedule), 2
    found = step(
        parts, store="rollouts", gradient=f"steps:{at}", reward_frames="all", direct_align=True, discount=0.5
    )
    batch = batch_of(parts)
    with torch.no_grad():
        conditioning = parts.model.condition(batch.prompts, parts.geometry, batch.rng)
        clean = parts.model.rollout(conditioning, parts.geometry, batch.rng).latents
    own = batch.rng.within("low variance", 0)
    noise = own.normal("renoise", clean.shape[1:], dtype=clean.dtype)
    (alpha, sigma), (alpha_to, sigma_to) = levels(parts, at), levels(parts, at + 1)
    forget(parts)
    given = alpha * clean + sigma * noise
    prediction = predicted(parts, given, at, conditioning)
    if schedule == "flow":
        after = given + (sigma_to - sigma) * prediction
    else:
        after = alpha_to * clean_of(parts, given, prediction, alpha, sigma) + sigma_to * prediction
    loss = loss_of(parts, (after - sigma_to * noise) / alpha_to, batch, own)
    (0.25 * loss).backward()  # two steps before the last, at 0.5 each
    assert_equal(found, gradients(parts))


@pytest.mark.parametrize(("sampler", "schedule"), [("rectified_flow", "flow"), ("ddim", "v"), ("dpmpp", "v")])
def test_direct_align_of_a_perfect_prediction_is_the_clip(registry, sampler, schedule):
    from vader_core.method.renoise import without_noise
    from vader_core.prediction import Prediction

    parts = make(registry, sampler, schedule)
    plan, solver = parts.model.plan(parts.geometry), parts.model.sampler
    clean, noise = torch.randn(2, 1, 2, 1, 3, 3, dtype=torch.float64).unbind()
    for at in range(STEPS - 1):
        alpha, sigma = levels(parts, at)
        perfect = noise - clean if schedule == "flow" else alpha * noise - sigma * clean
        state = solver.renoise(plan, at, clean, noise)
        found = without_noise(solver, plan, at, state, Prediction(perfect), noise)
        torch.testing.assert_close(found, clean, rtol=0, atol=1e-9)


def test_a_store_of_own_rollouts_at_the_last_step_equals_inner_updates(registry):
    parts = make(registry)

    def every(**options):
        objective = RewardGradient(RewardGradientOptions(inner_updates=3, reward_frames="all", **options))
        objective.use(parts.rewards)
        (prepared,) = objective.prepare(parts.model, [batch_of(parts)], None)
        found = []
        for number in range(3):
            forget(parts)
            objective.step(parts.model, prepared, torch.Tensor.backward, number)
            found.append(gradients(parts))
        return found

    stored = every(store="rollouts", store_size=1, store_refresh=1, gradient="last")
    for one, other in zip(stored, every(low_variance=1), strict=True):
        for name, value in one.items():
            assert torch.equal(value, other[name])


def test_a_rollout_serves_its_steps_and_is_made_anew(registry):
    parts = make(registry)
    objective = RewardGradient(RewardGradientOptions(store="rollouts", store_size=2, store_refresh=2))
    objective.use(parts.rewards)
    made, ages = [], []
    rollout = parts.model.rollout
    parts.model.rollout = lambda *given: made.append(given) or rollout(*given)
    for number in range(8):
        batch = Batch(
            batch_of(parts).prompts, parts.geometry, Randomness(7, number, 0, (2 * number, 2 * number + 1))
        )
        (prepared,) = objective.prepare(parts.model, [batch], None)
        result = objective.step(parts.model, prepared, torch.Tensor.backward, 0)
        ages.append((len(made), int(result.figures["staleness"])))
    assert ages == [(1, 0), (2, 0), (2, 2), (2, 2), (3, 0), (4, 0), (4, 2), (4, 2)]


def test_a_store_for_good_is_never_refreshed():
    store = LatentStore(1, 0)
    batch = Batch([Prompt("a boat")], None, Randomness(0))
    store.put(0, 0, Stored(batch, torch.zeros(1)))
    assert all(store.take(number, 0, 1) is not None for number in range(1, 20))
    assert store.take(20, 0, 2) is None  # another batch size


def test_clips_are_a_store(registry):
    parts = make(registry)
    pixels = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    asked = [
        Prompt(prompt.text, video=Clip(Path(f"{index}.mp4"), pixels=film))
        for index, (prompt, film) in enumerate(zip(batch_of(parts).prompts, pixels, strict=True))
    ]
    batch = replace(batch_of(parts), prompts=asked)
    objective = RewardGradient(RewardGradientOptions(store="data", gradient="steps:2", reward_frames="all"))
    assert objective.needs == {"rewards", "videos"}
    objective.use(parts.rewards)
    (prepared,) = objective.prepare(parts.model, [batch], None)
    forget(parts)
    objective.step(parts.model, prepared, torch.Tensor.backward, 0)
    found = gradients(parts)
    with torch.no_grad():
        conditioning = parts.model.condition(asked, parts.geometry, batch.rng)
        clean = parts.backbone.encode_video(pixels, batch.rng.within("posterior")).float()
    own, (alpha, sigma) = batch.rng.within("low variance", 0), levels(parts, 2)
    forget(parts)
    given = alpha * clean + sigma * own.normal("renoise", clean.shape[1:], dtype=clean.dtype)
    estimate = clean_of(parts, given, predicted(parts, given, 2, conditioning), alpha, sigma)
    loss_of(parts, estimate, batch, own).backward()
    assert_equal(found, gradients(parts), 1e-6)  # clips are encoded to float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": "rollouts", "gradient": "last:2"}, "updates at one step"),
        ({"store": "rollouts", "gradient": "random"}, "updates at one step"),
        ({"store": "rollouts", "segments": 2}, "do not fit"),
        ({"store": "rollouts", "detach_input": True}, "do not fit"),
        ({"store_size": 3}, "belongs to a store"),
        ({"direct_align": True}, "belongs to a store"),
        ({"store": "data", "store_refresh": 2}, "is for store=rollouts"),
        ({"gradient": "random:3-9"}, "LO-HI must satisfy"),
    ],
)
def test_what_does_not_fit_is_refused(registry, options, message):
    parts = make(registry)
    with pytest.raises(VaderError, match=message):
        RewardGradient(RewardGradientOptions(**options)).check(parts.model, parts.geometry)


def test_direct_align_refuses_noise_that_it_does_not_know(registry):
    parts = make(registry, "ddim", "epsilon", {"eta": 1.0})
    objective = RewardGradient(RewardGradientOptions(store="rollouts", direct_align=True))
    with pytest.raises(VaderError, match="make its steps deterministic"):
        objective.check(parts.model, parts.geometry)


def test_a_run_resumes_bit_for_bit_with_a_half_refreshed_store(vader, tmp_path):
    def rows(folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return {
            row["step"]: (row["loss"], row["staleness"]) for row in map(json.loads, lines) if "loss" in row
        }

    given = ["train", "--backbone", "tiny", "--reward", "motion", "--prompts", "fixed", "--batch-size", "1"]
    for name, value in (("store", "rollouts"), ("store_size", 2), ("store_refresh", 2)):
        given += ["-o", f"objective.reward_gradient.{name}={value}"]
    given += ["--gradient", "random:0-1", "--num-steps", "2", "--accumulate", 2]
    given += ["-o", "validation.every=0", "--quiet"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert vader(*given, "--max-steps", 8, "--out", whole) == 0
    assert vader(*given, "--max-steps", 5, "--out", cut) == 0  # of two places one is refreshed
    assert vader("train", "--resume", cut, "--allow-changes", "--max-steps", 8) == 0
    assert rows(whole) == rows(cut)
    assert [staleness for _, staleness in rows(whole).values()] == [0, 0, 2, 2, 0, 0, 2, 2]


def test_without_clips_a_store_of_them_is_refused(vader, capsys):
    given = ["train", "--backbone", "tiny", "--reward", "motion", "--prompts", "fixed", "--dry-run"]
    assert vader(*given, "-o", "objective.reward_gradient.store=data") == 2
    assert "--data" in capsys.readouterr().err
