"""Supervised training: each schedule's loss by hand, runs on clips, and both losses together."""

from __future__ import annotations

import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.diffusion_loss import LearnedRange, frame_mean, min_snr_weight
from vader_core.method.guidance import Guidance, parse_scale
from vader_core.method.model import Model
from vader_core.method.objective import Batch
from vader_core.method.options import SupervisedOptions
from vader_core.method.supervised import Supervised, encode, without_captions
from vader_core.prediction import Prediction
from vader_core.prompts import Clip, Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import VariancePreserving
from vader_core.testing.tiny import TinyBackbone, TinyImageBackbone, tiny_backbone
from vader_core.training.processes import SingleProcess

GEOMETRY = Geometry(16, 16, 4, 8.0)


def batch_of(count, **changed):
    draws = torch.Generator().manual_seed(3)
    prompts = [
        Prompt(f"clip {n}", video=Clip(Path(f"{n}.mp4"), pixels=torch.rand(4, 3, 16, 16, generator=draws)))
        for n in range(count)
    ]
    return Batch(prompts, GEOMETRY, Randomness(7, samples=tuple(range(count)), **changed))


def model_of(backbone):
    return Model(backbone, sampler=None, guidance=Guidance(parse_scale(2.0), False, None), num_steps=4)


def prepared(model, batch, **options):
    objective = Supervised(SupervisedOptions(**options))
    return objective, objective.prepare(model, [batch], SingleProcess(torch.device("cpu")))[0]


# -- the loss of each schedule, by hand ------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["epsilon", "v", "exploding", "flow"])
def test_the_loss_by_hand(schedule):
    backbone = tiny_backbone(schedule=schedule)
    model, batch = model_of(backbone), batch_of(3)
    objective, encoded = prepared(model, batch, caption_dropout=0.0)
    t = objective.timesteps(backbone, batch)
    clean = backbone.encode_video(torch.stack([prompt.video.pixels for prompt in batch.prompts]), batch.rng)
    noise = batch.rng.normal("noise", clean.shape[1:])
    expected = []
    for i in range(3):
        x, e, when = clean[i : i + 1], noise[i : i + 1], float(t[i])
        if schedule == "flow":
            tau = when / 1000
            noised, target = (1 - tau) * x + tau * e, e - x
        elif schedule == "exploding":
            sigma = math.exp(4 * when)
            scale = 1 / math.sqrt(sigma**2 + 1)
            noised, target = scale * (x + sigma * e), scale * e - sigma * scale * x
        else:
            a = float(backbone.schedule.alphas_cumprod[int(when)])
            noised = math.sqrt(a) * x + math.sqrt(1 - a) * e
            target = e if schedule == "epsilon" else math.sqrt(a) * e - math.sqrt(1 - a) * x
        conditioning = model.condition(batch.prompts[i : i + 1], GEOMETRY, batch.rng)
        predicted = backbone.predict(noised, torch.tensor([when]).float(), conditioning.conditional_branch)
        expected.append((predicted.value - target).pow(2).mean())
    sent = []
    result = objective.step(model, encoded, sent.append, 0)
    assert torch.allclose(result.figures["data_loss"], torch.stack(expected).detach(), rtol=1e-4)
    assert torch.equal(sent[0].detach(), result.loss)
    assert float(result.loss) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)


class LearnedRangeTiny(TinyBackbone):
    """The tiny model with its prediction's negative as the variance channels."""

    @property
    def schedule(self):
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        return VariancePreserving(torch.cumprod(1 - betas, 0), "epsilon", variance="learned_range")

    def predict(self, latents, timestep, conditioning):
        value = super().predict(latents, timestep, conditioning).value
        return Prediction(value, -0.5 * value.tanh())


@pytest.mark.parametrize("snr_loss", [False, True])
def test_a_model_that_predicts_its_variance(snr_loss):
    plain = tiny_backbone(schedule="epsilon")
    backbone = LearnedRangeTiny(plain.config, device="cpu", dtype=torch.float32)
    backbone.load()
    model, batch = model_of(backbone), batch_of(4)
    objective, encoded = prepared(model, batch, caption_dropout=0.0, snr_loss=snr_loss, tables="float32")
    objective.check(model, GEOMETRY)
    t = torch.tensor([0, 100, 500, 999])
    losses = objective.losses(model, encoded, t)
    tables = LearnedRange.linear(torch.float32)
    noise = batch.rng.normal("noise", encoded.latents.shape[1:])
    noised = tables.add_noise(encoded.latents, noise, t)
    conditioning = model.condition(batch.prompts, GEOMETRY, batch.rng).conditional_branch
    found = backbone.predict(noised, t.float(), conditioning)
    terms = tables.terms(
        encoded.latents, noise, noised, t, epsilon=found.value, share=found.variance, snr_loss=snr_loss
    )
    # the bound at timestep 0 depends on the tables' rounding
    assert torch.allclose(losses[1:], terms.loss[1:], rtol=2e-4)
    assert float(losses[0]) == pytest.approx(float(terms.loss[0]), rel=5e-3)


def test_tables_of_a_schedule_are_its_own():
    made = LearnedRange.of(LearnedRange.linear(torch.float64).alphas_cumprod, torch.float32)
    assert torch.allclose(made.betas, LearnedRange.linear(torch.float32).betas, rtol=1e-6)
    assert made.alphas_cumprod.dtype == torch.float32


def test_logit_normal_levels_lie_half_way():
    backbone = tiny_backbone(schedule="flow")
    batch = Batch([Prompt("x")] * 400, GEOMETRY, Randomness(0, samples=tuple(range(400))))
    even = Supervised(SupervisedOptions(timesteps="uniform")).timesteps(backbone, batch)
    middle = Supervised(SupervisedOptions(timesteps="logit_normal")).timesteps(backbone, batch)
    inside = [float(((drawn > 250) & (drawn < 750)).float().mean()) for drawn in (even, middle)]
    assert inside[0] == pytest.approx(0.5, abs=0.08)
    assert inside[1] == pytest.approx(0.728, abs=0.08)  # a logistic of a standard normal


def test_larger_clips_are_trained_at_more_noise():
    class Shifted(TinyBackbone):
        def training_shift(self, geometry):
            return 3.0

    plain = tiny_backbone(schedule="flow")
    shifted = Shifted(plain.config, device="cpu", dtype=torch.float32)
    objective = Supervised(SupervisedOptions(timesteps="uniform"))
    level = torch.tensor([0.5], dtype=torch.float64)
    assert float(objective.spread(plain, GEOMETRY, level)) == 500
    assert float(objective.spread(shifted, GEOMETRY, level)) == pytest.approx(750)


# -- captions, masks, weights ----------------------------------------------------------------------------


def test_dropped_captions_are_the_unconditional_branch():
    model, batch = model_of(tiny_backbone()), batch_of(3)
    conditioning = model.condition(batch.prompts, GEOMETRY, batch.rng)
    mixed = without_captions(conditioning, torch.tensor([True, False, True]))
    assert torch.equal(mixed.tensors["text"][0], conditioning.unconditional["text"][0])
    assert torch.equal(mixed.tensors["text"][1], conditioning.tensors["text"][1])
    objective, encoded = prepared(model, batch)
    t = torch.full((3,), 500.0)
    kept, dropped = (
        objective.losses(model, encoded, t, dropped=torch.tensor([False, drop, False]))
        for drop in (False, True)
    )
    assert [bool(same) for same in kept == dropped] == [True, False, True]


def test_captions_are_dropped_as_often_as_asked():
    objective = Supervised(SupervisedOptions(caption_dropout=0.3))
    batch = Batch([Prompt("x")] * 500, GEOMETRY, Randomness(0, samples=tuple(range(500))))
    assert float(objective._dropped(batch).float().mean()) == pytest.approx(0.3, abs=0.06)


class MaskedTiny(TinyBackbone):
    takes_frame_masks = True
    seen = None

    def with_frame_mask(self, conditioning, mask):
        self.seen = mask
        return conditioning


@pytest.mark.parametrize("schedule", ["flow", "epsilon"])
def test_given_frames_do_not_count(schedule):
    plain = tiny_backbone(schedule=schedule)
    backbone = MaskedTiny(plain.config, device="cpu", dtype=torch.float32)
    backbone.load()
    model, batch = model_of(backbone), batch_of(2)
    objective, encoded = prepared(model, batch, frame_masks={"image_head": 1.0}, caption_dropout=0.0)
    objective.check(model, GEOMETRY)
    mask = objective._mask(encoded)
    frames = encoded.latents.shape[2]
    assert mask.tolist() == [[False] + [True] * (frames - 1)] * 2
    given = []

    def watched(latents, timestep, conditioning, original=backbone.predict):
        given.append(latents)
        return original(latents, timestep, conditioning)

    backbone.predict = watched
    t = torch.full((2,), 500.0)
    losses = objective.losses(model, encoded, t, mask=mask)
    assert torch.equal(backbone.seen, mask)
    noise = batch.rng.normal("noise", encoded.latents.shape[1:])
    first, clean = given[0][:, :, 0], encoded.latents[:, :, 0]
    if schedule == "flow":
        assert torch.equal(first, clean)
    else:  # the noise of timestep 0
        a = float(backbone.schedule.alphas_cumprod[0])
        expected = math.sqrt(a) * clean + math.sqrt(1 - a) * noise[:, :, 0]
        assert torch.allclose(first, expected, atol=1e-6)
    target = backbone.schedule.target(encoded.latents, noise, t)
    conditioning = model.condition(batch.prompts, GEOMETRY, batch.rng).conditional_branch
    error = (TinyBackbone.predict(backbone, given[0], t, conditioning).value - target).pow(2)
    assert torch.allclose(losses, error[:, :, 1:].mean(dim=(1, 2, 3, 4)), rtol=1e-5)


def test_a_sample_without_a_learned_frame_has_no_loss():
    values = torch.ones(2, 3, 4, 2, 2, requires_grad=True)
    mask = torch.tensor([[True] * 4, [False] * 4])
    mean = frame_mean(values, mask)
    assert mean.tolist() == [1.0, 0.0]
    mean.sum().backward()
    assert float(values.grad[1].abs().sum()) == 0


def test_min_snr_weights():
    snr = torch.tensor([0.1, 5.0, 50.0])
    assert min_snr_weight(snr, 5.0, "epsilon").tolist() == pytest.approx([1.0, 1.0, 0.1])
    assert min_snr_weight(snr, 5.0, "v").tolist() == pytest.approx([0.1 / 1.1, 5 / 6, 5 / 51])
    model, batch = model_of(tiny_backbone(schedule="epsilon")), batch_of(3)
    objective, encoded = prepared(model, batch, min_snr=5.0)
    plain, _ = prepared(model, batch)
    t = torch.tensor([5, 500, 900])
    a = model.backbone.schedule.alphas_cumprod[t].float()
    ratio = objective.losses(model, encoded, t) / plain.losses(model, encoded, t)
    assert torch.allclose(ratio, (a / (1 - a)).clamp(max=5) / (a / (1 - a)), rtol=1e-4)


def test_an_image_model_starts_from_the_clips_own_first_frame():
    plain = tiny_backbone()
    backbone = TinyImageBackbone(plain.config, device="cpu", dtype=torch.float32)
    backbone.load()
    model, batch = model_of(backbone), batch_of(2)
    objective, encoded = prepared(model, batch, caption_dropout=0.0)
    assert torch.equal(encoded.first_frames[1], batch.prompts[1].video.pixels[0])
    assert torch.isfinite(objective.losses(model, encoded, torch.full((2,), 500.0))).all()


def test_kept_latents_are_taken_as_they_are():
    model, batch = model_of(tiny_backbone()), batch_of(2)
    once = encode(model, batch)
    kept = [
        Prompt(prompt.text, video=Clip(prompt.video.path, latents=row))
        for prompt, row in zip(batch.prompts, once.latents, strict=True)
    ]
    assert torch.equal(encode(model, Batch(kept, GEOMETRY, batch.rng)).latents, once.latents)


class NoEncoder(TinyBackbone):
    encodes_video = False


@pytest.mark.parametrize(
    ("schedule", "options", "kind", "said"),
    [
        ("flow", {"min_snr": 5}, TinyBackbone, "RectifiedFlow schedule, which has no such weights"),
        ("epsilon", {"snr_loss": True}, TinyBackbone, "snr_loss is for models that predict noise and a var"),
        ("flow", {"frame_masks": {"head": 0.1}}, TinyBackbone, "unknown frame mask 'head'"),
        ("flow", {"frame_masks": {"image_head": 1.2}}, TinyBackbone, "is not a probability"),
        ("flow", {"frame_masks": {"image_head": 0.2}}, TinyBackbone, "cannot be given single frames"),
        ("flow", {}, NoEncoder, "cannot encode videos"),
    ],
)
def test_what_cannot_work_is_refused(schedule, options, kind, said):
    plain = tiny_backbone(schedule=schedule)
    model = model_of(kind(plain.config, device="cpu", dtype=torch.float32))
    with pytest.raises(VaderError, match=said):
        Supervised(SupervisedOptions(**options)).check(model, GEOMETRY)


# -- runs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twelve clips of 24 x 24, six frames at 8 fps, each of one colour, with captions, and a broken one."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(12):
        path = folder / f"{number:02}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
            stream.height = stream.width = 24
            stream.pix_fmt = "yuv420p"
            picture = np.full((24, 24, 3), 20 * number, dtype=np.uint8)
            for _ in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        path.with_suffix(".txt").write_text(f"grey {number}")
    (folder / "99.mp4").write_bytes(b"broken")
    (folder / "99.txt").write_text("broken")
    return folder


RUN = "train --backbone tiny --num-steps 2 --lora-rank 2 --quiet -o run.trackers=[]".split()


def records(run, kind):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if record["kind"] == kind]


def weights(run, step):
    return (run / "checkpoints" / f"step-{step:06}" / "adapter_model.safetensors").read_bytes()


def test_a_run_on_a_folder_lowers_the_loss_on_clips_it_never_saw(vader, clips, tmp_path):
    run = tmp_path / "run"
    arguments = ["--data", f"videos:{clips}", "--max-steps", 12, "--batch-size", 4, "--lr", "0.05"]
    arguments += ["-o", "data.held_out=3", "-o", "validation.prompts=1", "-o", "validation.seeds=1"]
    assert vader(*RUN, *arguments, "--out", run) == 0
    summary = json.loads((run / "summary.json").read_text())
    losses = summary["held_out_loss"]
    assert set(losses["base"]) == {"mean", "0.1", "0.3", "0.5", "0.7", "0.9"}
    assert losses["tuned"]["mean"] < losses["base"]["mean"]
    assert summary["best_step"] == 12
    assert summary["reward_queries"] == 0
    first, last = records(run, "validation")
    assert first["watch"]["held_out_loss"] == pytest.approx(losses["base"]["mean"])
    assert last["watch"]["held_out_loss"] == pytest.approx(losses["tuned"]["mean"])
    assert (run / "samples" / "step-000012" / "00.mp4").is_file()
    assert all("data_loss" in record for record in records(run, "train"))


def test_a_resumed_run_has_the_same_weights_to_the_bit(vader, clips, tmp_path):
    common = ["--data", f"videos:{clips}", "--batch-size", 2, "-o", "validation.prompts=0"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert vader(*RUN, *common, "--max-steps", 4, "--out", whole) == 0
    assert vader(*RUN, *common, "--max-steps", 2, "--out", parts) == 0
    assert vader("train", "--resume", parts, "--allow-changes", "--max-steps", 4, "--quiet") == 0
    assert weights(whole, 4) == weights(parts, 4)


def test_the_data_anchor_trains_both(vader, clips, tmp_path):
    run = tmp_path / "run"
    arguments = [
        "--data",
        f"videos:{clips}",
        "--reward",
        "brightness",
        "--prompts",
        "fixed",
        "--max-steps",
        2,
    ]
    arguments += [
        "--objective",
        "reward_gradient",
        "--objective",
        "supervised:0.5",
        "-o",
        "validation.prompts=0",
    ]
    assert vader(*RUN, *arguments, "--out", run) == 0
    for record in records(run, "train"):
        both = record["reward_gradient_loss"] + 0.5 * record["supervised_loss"]
        assert record["loss"] == pytest.approx(both, rel=1e-5)
        assert record["rewards"]["brightness"] == pytest.approx(-record["reward_gradient_loss"], rel=1e-5)


def test_both_are_implied_by_reward_and_data(vader, clips, capsys):
    arguments = ["--data", f"videos:{clips}", "--reward", "brightness", "--prompts", "fixed"]
    assert vader(*[part for part in RUN if part != "--quiet"], *arguments, "--dry-run", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["objective"] == "reward_gradient x 1, supervised x 1"
    assert facts["data"]["learned"] == 11
    assert facts["data"]["held_out"] == 1
    assert facts["data"]["reasons"] == {"it cannot be read": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "videos:nowhere"], "nowhere: no such folder"),
        (["--data", "clips"], "unknown prompt source 'clips'"),
        (["--data", "fixed"], "this source has prompts but no videos"),
        (["--data", "videos:"], "nothing stands after the colon"),
        (["--data", "image:x"], "'image' is no form of data"),
        (
            ["--data", "videos:CLIPS", "--num-frames", "40"],
            "no row of the data can be learned from: too short",
        ),
        (["--data", "videos:CLIPS", "-o", "data.unreadable_limit=0.01"], "1 of 13 rows cannot be read"),
        (["--data", "videos:CLIPS", "-o", "data.held_out=12"], "leaves none of the 12 usable clips"),
        (["--data", "videos:CLIPS", "-o", "data.colour=red"], "data.colour: no option of --data videos"),
        (["--data", "videos:CLIPS", "-o", "data.frame_rule=open_sora"], "give data.frame_interval"),
        (["--objective", "supervised", "--prompts", "fixed"], "no data: give --data"),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_loaded(
    vader, clips, capsys, monkeypatch, arguments, said
):
    def never(self):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(TinyBackbone, "load", never)
    given = [part.replace("CLIPS", str(clips)) for part in arguments]
    assert vader(*RUN, *given, "--dry-run") == 2
    assert said in capsys.readouterr().err
