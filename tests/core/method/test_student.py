"""A student makes a store's rollouts; the model itself learns from them."""

from __future__ import annotations

import json

import pytest
import torch
from reference_loop import assert_equal, batch_of, forget, gradients, make
from update_at_a_step import clean_of, levels, loss_of, predicted

from vader_core.builtin.samplers.lcm import LCM
from vader_core.lora.formats import Adapter
from vader_core.method.guidance import Guidance
from vader_core.method.model import Student
from vader_core.method.options import RewardGradientOptions
from vader_core.method.reward_gradient import RewardGradient
from vader_core.run.directory import Run


def with_student(registry):
    parts = make(registry, "tiny", {"schedule": "epsilon"}, sampler="ddim")
    draw = torch.Generator().manual_seed(4)
    own = parts.model.tuning.adapter().tensors
    distilled = {name: 0.3 * torch.randn(value.shape, generator=draw) for name, value in own.items()}
    parts.model.tuning.add("rollout", Adapter(distilled, 2, 2.0), 0.0)
    return parts.with_model(student=Student(LCM(), Guidance(1.0), 3, "rollout"))


def test_the_student_makes_the_rollout_and_the_model_learns_from_it(registry):
    parts, at = with_student(registry), 2
    batch = batch_of(parts)
    objective = RewardGradient(
        RewardGradientOptions(store="rollouts", gradient=f"steps:{at}", reward_frames="all")
    )
    objective.use(parts.rewards)
    counted, predict = [], parts.backbone.predict
    parts.backbone.predict = lambda *given: counted.append(len(given[0])) or predict(*given)
    (prepared,) = objective.prepare(parts.model, [batch], None)
    parts.backbone.predict = predict
    assert counted == [2, 2, 2]  # three steps of two samples, without guidance
    forget(parts)
    objective.step(parts.model, prepared, torch.Tensor.backward, 0)
    found = gradients(parts)

    with torch.no_grad():
        conditioning = parts.model.condition(batch.prompts, parts.geometry, batch.rng)
        with parts.model.tuning.with_scale("rollout", 1.0):
            student = parts.model.student.like(parts.model)
            clean = student.rollout(conditioning, parts.geometry, batch.rng).latents
        plain = student.rollout(conditioning, parts.geometry, batch.rng).latents
    assert float((clean - plain).abs().max()) > 1e-3  # the distilled adapter counts, and no longer does
    own, (alpha, sigma) = batch.rng.within("low variance", 0), levels(parts, at)
    forget(parts)
    given = alpha * clean + sigma * own.normal("renoise", clean.shape[1:], dtype=clean.dtype)
    estimate = clean_of(parts, given, predicted(parts, given, at, conditioning), alpha, sigma)
    loss_of(parts, estimate, batch, own).backward()
    assert_equal(found, gradients(parts))


def test_sampling_and_validation_know_no_student(registry):
    assert with_student(registry).model.whole().student is None


STORE = ["-o", "objective.reward_gradient.store=rollouts", "--gradient", "steps:1"]


def test_a_run_with_a_student_trains_resumes_and_is_told_apart(vader, tmp_path):
    given = ["train", "--backbone", "tiny", "-o", "backbone.schedule=epsilon", "--reward", "motion"]
    given += ["--prompts", "fixed", "--batch-size", "1", "--num-steps", "3", "--quiet"]
    assert vader(*given, "--max-steps", 2, "--lr", 0.1, "--out", tmp_path / "distilled") == 0
    given += [*STORE, "--rollout-lora", tmp_path / "distilled", "-o", "rollout.sampler=lcm"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert vader(*given, "--max-steps", 6, "--out", whole) == 0
    assert vader(*given, "--max-steps", 3, "--out", cut) == 0
    assert vader("train", "--resume", cut, "--allow-changes", "--max-steps", 6, "--quiet") == 0

    def losses(folder):
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [row["loss"] for row in rows if "loss" in row]

    assert losses(whole) == losses(cut)
    names = (whole / "checkpoints" / "step-000006" / "adapter_config.json").read_text()
    assert "rollout" not in names
    kept = (whole / "config.yaml").read_text()
    assert "sampler: lcm" in kept
    assert "num_steps: 4" in kept


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-o", "rollout.num_steps=2"], "store=rollouts"),
        ([*STORE, "-o", "rollout.sampler=rectified_flow"], "follows a RectifiedFlow schedule"),
        ([*STORE, "--rollout-lora", "nowhere"], "no such file"),
    ],
)
def test_what_cannot_be_is_refused(vader, capsys, tmp_path, more, message):
    given = ["train", "--backbone", "tiny", "-o", "backbone.schedule=epsilon", "--reward", "motion"]
    given += ["--prompts", "fixed", "--max-steps", "1", "--out", tmp_path / "run", *more]
    assert vader(*given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_plan_says_what_updates_start_from(vader, capsys):
    given = ["train", "--backbone", "tiny", "-o", "backbone.schedule=epsilon", "--reward", "motion"]
    given += ["--prompts", "fixed", "--dry-run", "--json"]
    assert vader(*given) == 0
    assert json.loads(capsys.readouterr().out)["store"] == "none"
    assert vader(*given, *STORE, "-o", "rollout.sampler=lcm", "-o", "rollout.num_steps=2") == 0
    said = json.loads(capsys.readouterr().out)["store"]
    assert said == "4 rollouts, each for 4 steps, made by the model (lcm, 2 steps, guidance 1.0)"


def test_guidance_alone_is_a_way_of_its_own(vader, capsys):
    given = ["train", "--backbone", "tiny", "-o", "backbone.schedule=epsilon", "--reward", "motion", *STORE]
    given += ["--prompts", "fixed", "--dry-run", "--json", "--num-steps", "3", "--guidance-scale", "2"]
    assert vader(*given, "-o", "rollout.guidance_scale=1") == 0
    said = json.loads(capsys.readouterr().out)["store"]
    assert said.startswith("4 rollouts, each for 4 steps, made by the model (")
    assert said.endswith(" 3 steps, guidance 1.0)")


def test_a_run_from_before_that_goes_on(vader, tmp_path):
    """Runs wrote guidance 1 for the rollouts of a store although nothing of it was asked for."""
    run = tmp_path / "run"
    given = ["train", "--backbone", "tiny", "-o", "backbone.schedule=epsilon", "--reward", "motion", *STORE]
    given += ["--prompts", "fixed", "--num-steps", "3", "--guidance-scale", "2", "--quiet"]
    assert vader(*given, "--max-steps", 1, "--out", run) == 0
    for name in ("config.yaml", "environment.json"):
        text = (run / name).read_text()
        at = text.index("rollout:")
        old = text[:at] + text[at:].replace("guidance_scale: null", "guidance_scale: 1.0", 1)
        assert old != text
        (run / name).write_text(old)
    assert vader("train", "--resume", run, "--allow-changes", "--max-steps", 2, "--quiet") == 0
    assert "guidance_scale: null" in (run / "config.yaml").read_text().split("rollout:")[1]
    assert Run(run).recorded().rollout.guidance_scale is None
