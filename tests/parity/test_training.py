"""Supervised training against numbers that the official trainers wrote.

The bars, and the reason for each: tables, indices, masks and orders are whole numbers and equal; pixels
within 1e-6 (interpolation in float32, values up to 1); losses 1e-5, gradients 1e-4 and a LoRA after three
AdamW steps 1e-5, relative L2 (a second implementation of the same rules reached 7e-8, 8e-7 and 9e-7);
learning rates 1e-6 relative (the originals compute in float32).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import golden_paths, golden_roots
from safetensors.torch import load_file
from torch import Tensor
from vader_opensora.architecture import STDiT3Config
from vader_opensora.flow import add_noise, shifted, time_shift
from vader_opensora.stdit3 import STDiT3

from vader_core.data.buckets import Buckets, place_all
from vader_core.data.collate import easyanimate_collate, easyanimate_size
from vader_core.data.crops import centre_image, centre_video, cover_image, cover_video
from vader_core.data.frame_choice import (
    draw_frame_count,
    easyanimate_count,
    easyanimate_frames,
    easyanimate_starts,
    random_frame_counts,
    window_frames,
    window_starts,
)
from vader_core.data.frame_masks import FrameMasks, SeededDraws
from vader_core.data.order import EasyAnimateGroups, open_sora_order
from vader_core.data.resolutions import easyanimate_crops, easyanimate_sizes, resolution
from vader_core.errors import VaderError
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.method.diffusion_loss import LearnedRange, keep_frames, logit_normal, squared_error
from vader_core.prompts import Shape
from vader_core.training import learning_rate

pytestmark = pytest.mark.golden

LOSS = 1e-5
GRADIENT = 1e-4
LORA_AFTER = 1e-5
PIXELS = 1e-6
RATE = 1e-6


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@cache
def tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    difference = (actual.detach().double() - expected.double()).norm()
    distance = float(difference / expected.double().norm().clamp(min=1e-30))
    assert distance <= tolerance, f"relative distance {distance:.2e} > {tolerance:.0e}"


def files(plugin: str, pattern: str) -> list[Any]:
    found = [pytest.param(path, id=path.stem) for path in golden_paths(plugin, pattern)]
    assert found, f"no goldens {plugin}/{pattern}"
    return found


def parts(pattern: str, *keys: str) -> list[Any]:
    """(entry, rule) for every entry of a list or mapping inside every matching file."""
    found = []
    for path in golden_paths("training", pattern):
        content = entries = read(path)
        for key in keys:
            entries = entries[key]
        named = entries.items() if isinstance(entries, dict) else enumerate(entries)
        found += [pytest.param(entry, content.get("rule"), id=f"{path.stem}-{name}") for name, entry in named]
    assert found, f"nothing in {pattern}"
    return found


# -- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("training", "aspect_ratios_1.*.json"))
def test_resolutions(path):
    for name, expected in read(path).items():
        found = resolution(name)
        assert found.pixels == expected["pixels"]
        assert [(key, list(size)) for key, size in found.sizes.items()] == list(expected["sizes"].items())


@pytest.mark.parametrize("path", files("training", "aspect_ratios_easyanimate*.json"))
def test_easyanimate_ratios(path):
    content = read(path)
    assert {key: list(size) for key, size in easyanimate_sizes().items()} == content["ratios_512"]
    crops, weights = easyanimate_crops()
    assert {key: list(size) for key, size in crops.items()} == content["random_crop_512"]
    assert weights == pytest.approx(content["random_crop_probabilities"], abs=1e-15)


# -- buckets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "rule"), parts("buckets_*.json", "configs"))
def test_bucket_of_each_row(rows, rule):
    buckets = Buckets(rows["bucket_config"], rule)
    assert buckets.count == rows["num_buckets"]
    numbers: dict[str, dict[str, int]] = {}
    for slot in buckets.slots:
        numbers.setdefault(slot.resolution.name, {})[str(slot.frames)] = slot.number
    assert numbers == rows["bucket_number"]
    for frames, height, width, interval, seed, expected, made in rows["rows"]:
        shape = Shape(frames, height, width)
        found = buckets.place(shape, interval, seed)
        assert (None if found is None else list(found)) == expected
        if found is None:
            assert buckets.why_dropped(shape, interval)
        else:
            assert [found.frames, *found.size, buckets.batch_size(found)] == made


@pytest.mark.parametrize("path", files("training", "buckets_*.json"))
def test_closest_ratio(path):
    for name, height, width, expected in read(path)["closest_ratio"]:
        assert resolution(name).nearest(height, width) == expected


@pytest.mark.parametrize(("sampler", "rule"), parts("buckets_*.json", "samplers"))
def test_bucket_order(sampler, rule):
    buckets = Buckets(sampler["bucket_config"], rule)
    shapes = [Shape(*row) for row in sampler["rows"]]
    for run in sampler["runs"]:
        placement = place_all(buckets, shapes, sampler["frame_interval"], run["seed"], run["epoch"])
        names = ("world_size", "seed", "epoch", "drop_last", "shuffle", "start_step")
        asked = {name: run[name] for name in names}
        if run["batches_by_rank"] is None:
            with pytest.raises(VaderError, match="beyond the epoch's end"):
                open_sora_order(placement, buckets.batch_size, **asked)
            continue
        by_rank = open_sora_order(placement, buckets.batch_size, **asked)
        named = [
            [
                [f"{row}-{bucket.frames}-{bucket.size[0]}-{bucket.size[1]}" for row in rows]
                for bucket, rows in batches
            ]
            for batches in by_rank
        ]
        assert named == run["batches_by_rank"]


# -- masks and frames ------------------------------------------------------------------------------------


class Scripted:
    """Draws that were recorded; each must be asked for in turn, with the recorded bounds."""

    def __init__(self, draws, rands):
        self.left, self.rands = [list(draw) for draw in draws], rands

    def _next(self, *asked):
        name, *recorded = self.left.pop(0)
        assert (name, *recorded[:-1]) == asked
        return recorded[-1]

    def random(self):
        return self._next("random")

    def randint(self, low, high):
        return self._next("randint", low, high)

    def uniform(self, low, high):
        return self._next("uniform", low, high)

    def rand(self, count):
        assert count == len(self.rands)
        return torch.tensor(self.rands)


def written(mask: Tensor) -> str:
    return "".join("1" if generated else "0" for generated in mask.tolist())


@pytest.mark.parametrize("path", files("training", "masks_*.json"))
def test_frame_masks(path):
    content = read(path)
    masks = FrameMasks(content["ratios"])
    for frames, draws, expected, *rands in content["rows"]:
        if expected is None:  # the original raises with two or three frames; one frame is meant
            mask = masks.draw(frames, SeededDraws(0))
            assert mask.shape == (frames,)
            continue
        scripted = Scripted(draws, rands[0] if rands else None)
        assert written(masks.draw(frames, scripted)) == expected
        assert not scripted.left
    for seed, frames, count, expected in content["seeded"]["rows"]:
        seeded = SeededDraws(seed)
        assert [written(masks.draw(frames, seeded)) for _ in range(count)] == expected


@pytest.mark.parametrize("path", files("training", "frames_opensora_*.json"))
def test_frames_of_open_sora(path):
    for frames, wanted, interval, starts, start, expected in read(path)["rows"]:
        assert list(window_starts(frames, wanted, interval)) == starts
        if expected is None:
            with pytest.raises(VaderError, match="too few"):
                window_frames(frames, wanted, interval, start)
        else:
            assert window_frames(frames, wanted, interval, start) == expected


@pytest.mark.parametrize("path", files("training", "data_easyanimate_*.json"))
def test_frames_of_easyanimate(path):
    for frames, wanted, stride, starts, start, expected in read(path)["frames"]["rows"]:
        if starts is None:
            assert easyanimate_count(frames, wanted) == 0
            with pytest.raises(VaderError, match="too few"):
                easyanimate_frames(frames, wanted, stride, 0)
            continue
        assert list(easyanimate_starts(frames, wanted, stride)) == starts
        if expected is None:
            with pytest.raises(VaderError, match="hold no clip"):
                easyanimate_frames(frames, wanted, stride, starts[0])
        else:
            assert easyanimate_frames(frames, wanted, stride, start) == expected


@pytest.mark.parametrize("path", files("training", "data_easyanimate_*.json"))
def test_grouping_of_easyanimate(path):
    grouping = read(path)["grouping"]
    for run in grouping["runs"]:
        generator = torch.Generator().manual_seed(run["generator_seed"])
        groups = EasyAnimateGroups(grouping["records"], run["batch_size"])
        assert [groups.epoch(generator) for _ in run["epochs"]] == run["epochs"]


@pytest.mark.parametrize("path", files("training", "data_easyanimate_*.json"))
def test_random_frame_crop(path):
    for case in read(path)["random_frame_crop"]:
        counts, weights = random_frame_counts(case["video_sample_n_frames"], case["interval"])
        assert counts == case["frames"]
        assert weights == pytest.approx(case["probabilities"], abs=1e-15)
        draws = np.random.Generator(np.random.PCG64(case["seed"]))
        assert [draw_frame_count(counts, weights, draws) for _ in case["draws"]] == case["draws"]


# -- pixels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files("training", "resize_crop_opensora_*.safetensors"))
def test_pixels_of_open_sora(path):
    given = tensors(path)
    compared = 0
    for key, expected in given.items():
        number, name = key.split(".", 1)
        if name == "video":
            continue
        clip, (kind, size) = given[f"{number}.video"], name.split("_")
        clip = clip if kind == "video" else clip[:1]
        if size.startswith("center"):
            made = (centre_video if kind == "video" else centre_image)(clip, int(size.removeprefix("center")))
        else:
            height, width = (int(side) for side in size.split("x"))
            made = (cover_video if kind == "video" else cover_image)(clip, (height, width))
        made = 2 * made - 1
        made = made if kind == "video" else made[0]
        assert made.shape == expected.shape
        assert float((made - expected).abs().max()) <= PIXELS, key
        compared += 1
    assert compared


@pytest.mark.parametrize("path", files("training", "data_easyanimate_*.json"))
def test_sizes_of_easyanimate(path):
    for height, width, side, size, ratio in read(path)["closest_ratio"]["rows"]:
        found, name = easyanimate_size(height, width, side)
        assert (list(found), float(name)) == (size, ratio)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem)
        for path in golden_paths("training", "data_easyanimate_*.json")
        if golden_paths("training", path.stem.replace("data_", "collate_") + ".safetensors")
    ],
)
def test_collate_of_easyanimate(path):
    (stored,) = golden_paths("training", path.stem.replace("data_", "collate_") + ".safetensors")
    given = tensors(stored)
    for name, case in read(path)["collate"].items():
        clips = [given[f"{name}.in{i}"].permute(0, 3, 1, 2) for i in range(len(case["shapes"]))]
        draws = np.random.Generator(np.random.PCG64(case["rng_seed"])) if case["random_ratio_crop"] else None
        made = easyanimate_collate(
            clips,
            side=case["video_sample_size"],
            most=case["video_sample_n_frames"],
            interval=case["interval"],
            crop_draws=draws,
        )
        assert list(made.shape) == case["out_shape"]
        assert float((2 * made - 1 - given[f"{name}.out"]).abs().max()) <= PIXELS


# -- learning rates --------------------------------------------------------------------------------------


def rate(name: str, k: int, given: dict[str, Any]) -> float:
    lr = given.get("lr")
    if name == "cosine_const":
        return learning_rate.cosine_const(k, lr, given["warmup_steps"])
    if name == "1cycle":
        return learning_rate.one_cycle(
            k,
            min_lr=given["min_lr"],
            max_lr=given["max_lr"],
            final_lr=given["final_lr"],
            warmup=given["warmup_steps"],
            cooldown=given["cooldown_steps"],
            anneal=given["anneal_strategy"],
        )
    if name == "linear_warmup_opensora_1.2":
        return learning_rate.linear_warmup(k, lr, given["warmup_steps"])
    if name == "diffusers_constant":
        return lr
    warmup = given["num_warmup_steps"]
    if name == "diffusers_constant_with_warmup":
        return learning_rate.warmup_from_zero(k, lr, warmup)
    shape = {"diffusers_cosine": learning_rate.cosine, "diffusers_linear": learning_rate.linear}[name]
    return shape(k, lr, warmup, given["num_training_steps"])


@pytest.mark.parametrize("path", files("training", "lr_schedules_*.json"))
def test_learning_rates(path):
    for key, schedule in read(path).items():
        # A file may hold several settings of one schedule, told apart by what follows its name.
        name = max((known for known in SCHEDULES if key.startswith(known)), key=len)
        for k, expected in schedule["rows"]:
            assert rate(name, k, schedule["params"]) == pytest.approx(expected, rel=RATE, abs=1e-18), (key, k)


SCHEDULES = (
    "cosine_const",
    "1cycle",
    "linear_warmup_opensora_1.2",
    "diffusers_constant",
    "diffusers_constant_with_warmup",
    "diffusers_cosine",
    "diffusers_linear",
)


# -- losses ----------------------------------------------------------------------------------------------


def runs(plugin: str, pattern: str) -> list[Any]:
    return [
        pytest.param(folder, name, id=f"{folder.name}-{name}")
        for folder in golden_paths(plugin, pattern)
        for name in read(folder / "config.json")["runs"]
    ]


def group(given: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in given.items() if key.startswith(f"{name}.")}


@pytest.mark.parametrize(("folder", "run"), runs("opensora11", "iddpm_loss_*"))
def test_learned_range_loss(folder, run):
    """From the stored prediction; the gradients need the model."""
    given = group(tensors(folder / "loss.safetensors"), run)
    tables = LearnedRange.linear(torch.float32)
    mask = given.get("x_mask")
    noised = tables.noised(given["x_start"], given["noise"], given["t"], mask)
    close(noised, given["x_t"], LOSS)
    epsilon, share = given["model_out"].chunk(2, dim=1)
    terms = tables.terms(
        given["x_start"], given["noise"], noised, given["t"], epsilon=epsilon, share=share, mask=mask
    )
    close(terms.mse, given["mse"], LOSS)
    close(terms.vb, given["vb"], LOSS)
    close(terms.loss, given["loss"], LOSS)


@pytest.mark.parametrize(
    "folder", [pytest.param(path, id=path.name) for path in golden_paths("opensora11", "iddpm_loss_*")]
)
def test_learned_range_tables(folder):
    given = group(tensors(folder / "loss.safetensors"), "table")
    tables = LearnedRange.linear(torch.float32)
    for name, made in (
        ("betas", tables.betas),
        ("alphas_cumprod", tables.alphas_cumprod),
        ("posterior_log_variance_clipped", tables.lowest_log_variance),
        ("posterior_mean_coef1", tables.mean_of_data),
        ("posterior_mean_coef2", tables.mean_of_noised),
    ):
        close(made, given[name], 1e-7)


def flow_model(folder: Path) -> STDiT3:
    content = read(folder / "config.json")
    config, weights = content["config"], Path(content["weights"])
    places = [root / Path(*weights.parts[1:]) for root in golden_roots(weights.parts[0])]
    names = STDiT3Config.__dataclass_fields__
    model = STDiT3(STDiT3Config(**{name: value for name, value in config.items() if name in names}))
    model.load_state_dict(load_file(next(place for place in places if place.is_file())), strict=True)
    return model.requires_grad_(False).eval()


def flow_loss(model: STDiT3, given: dict[str, Tensor], conditions: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(noised latents, loss of each sample) of Open-Sora 1.2's trainer."""
    clean, noise, t, mask = (given.get(name) for name in ("x_start", "noise", "t", "x_mask"))
    noised = keep_frames(add_noise(clean, noise, t), clean, mask)
    fps = torch.as_tensor(conditions["fps"]).float().expand(len(clean))
    size = (float(torch.as_tensor(conditions["height"]).flatten()[0]),)
    size += (float(torch.as_tensor(conditions["width"]).flatten()[0]),)
    out = model(noised, t, given["y"][:, 0], given["mask"], mask, fps=fps, size=size)
    return noised, squared_error(out.chunk(2, dim=1)[0], clean - noise, mask)


@pytest.mark.parametrize(("folder", "run"), runs("training", "opensora12_rflow_*"))
def test_rectified_flow_loss(folder, run):
    given = group(tensors(folder / "loss.safetensors"), run)
    model = flow_model(folder)
    gradients = {key.removeprefix("grad."): value for key, value in given.items() if key.startswith("grad.")}
    learning = dict(model.named_parameters())
    for name in gradients:
        learning[name].requires_grad_(True)
    noised, loss = flow_loss(model, given, given)
    close(noised, given["x_t"], LOSS)
    close(loss, given["loss"], LOSS)
    loss.mean().backward()
    for name, expected in gradients.items():
        close(learning[name].grad, expected, GRADIENT)


@pytest.mark.parametrize(
    "folder", [pytest.param(path, id=path.name) for path in golden_paths("training", "opensora12_rflow_*")]
)
def test_rectified_flow_timesteps(folder):
    given = group(tensors(folder / "loss.safetensors"), "timesteps")
    for name, case in read(folder / "config.json")["timesteps"].items():
        drawn = group(given, name)
        t = logit_normal(drawn["normal"]) * 1000
        close(t, drawn["logit_normal"], LOSS)
        for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            conditions = [
                torch.tensor([float(case[key])], dtype=dtype) for key in ("height", "width", "num_frames")
            ]
            close(shifted(t, time_shift(*conditions)), drawn[f"transformed_{kind}_conditioning"], LOSS)


@pytest.mark.parametrize(
    "folder", [pytest.param(path, id=path.name) for path in golden_paths("training", "opensora12_rflow_*")]
)
def test_three_steps_of_a_lora(folder):
    stored, config = tensors(folder / "lora_steps.safetensors"), read(folder / "config.json")["lora"]
    model = flow_model(folder)
    targets = tuple(config["target_modules"])
    attach_lora(model, LoraSettings(rank=config["r"], alpha=config["alpha"], targets=targets))
    learning = adapter_parameters(model)
    before = group(stored, "before")
    assert set(before) == set(learning)
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.copy_(before[name])
    optimizer = torch.optim.AdamW(list(learning.values()), **config["optimizer"])
    for step, expected in enumerate(config["steps"]):
        optimizer.zero_grad()
        given = group(stored, f"step{step}")
        _, loss = flow_loss(model, given, config["conditions"])
        close(loss, given["loss"], LOSS)
        loss.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(learning.values(), config["max_grad_norm"])
        assert float(norm) == pytest.approx(expected["grad_norm_before_clip"], rel=GRADIENT)
        optimizer.step()
    for name, expected in group(stored, "after").items():
        close(learning[name], expected, LORA_AFTER)
