"""Open-Sora 1.1 against numbers that the official code wrote.

Tolerances: running the official denoiser in float64 moves its output by 3e-7 (relative L2); the smallest
genuine mistake probed (aspect ratio inverted) moves it by 8e-3. 1e-5 for outputs and 1e-4 for gradients lie
between. Sampling and reward gradients run over many steps and through latents of size 300: 1e-4 and 1e-3.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from goldens import golden_paths
from opensora11_model import GEOMETRY, conditioning_of, model_of, stored, with_joining_noise
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from vader_opensora.captions import Request, parse_request, prepare
from vader_opensora.frame_masks import parse_strategy, place
from vader_opensora.image_vae import ImageVAE
from vader_opensora.v11.architecture import Architecture, STDiT2Config
from vader_opensora.v11.stdit2 import STDiT2, Told

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora, set_adapter
from vader_core.lora.formats import Adapter
from vader_core.method.diffusion_loss import LearnedRange, LearnedRangeTerms
from vader_core.method.gradient import Drawn
from vader_core.method.model import Model
from vader_core.prediction import Prediction
from vader_core.sampler import State

pytestmark = pytest.mark.golden

OUTPUT = 1e-5
GRADIENT = 1e-4
SAMPLE = 1e-4
REWARD = 1e-3
#: Guidance of the first goldens' short runs.
SHORT_SCALE = 7.0
SCALARS = ("height", "width", "ar", "num_frames", "fps")


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    return float(
        (actual.detach().double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)
    )


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    assert actual.shape == expected.shape
    distance = relative(actual, expected)
    assert distance <= tolerance, f"{what} relative distance {distance:.2e} > {tolerance:.0e}"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def group(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def folders(pattern: str, plugin: str = "opensora11") -> list[Path]:
    return golden_paths(plugin, pattern)


def cases(pattern: str, key: str, plugin: str = "opensora11") -> list[Any]:
    """(folder, case name) for every case that every matching folder's config lists."""
    return [
        pytest.param(folder, name, id=f"{plugin}-{folder.name}-{name}")
        for folder in folders(pattern, plugin)
        for name in read(folder / "config.json").get(key, {})
    ]


def beside(folder: Path, name: str) -> Path:
    """A file that a config names relative to the goldens' root of its kind, wherever that set lies."""
    here = [root / name for root in (folder, *folder.parents[:2]) if (root / name).exists()]
    found = here or [*golden_paths("opensora11", name), *golden_paths("", name)]
    assert found, f"{folder} names {name}, which is nowhere"
    return found[0]


def denoiser(config: dict[str, Any], weights: Path) -> STDiT2:
    names = {one.name for one in fields(STDiT2Config)}
    sizes = {name: value for name, value in config.items() if name in names}
    # The official class predicts the variance in every published run.
    assert config.get("pred_sigma", True)
    model = STDiT2(STDiT2Config(**sizes))
    model.load_state_dict(load_file(weights), strict=True)
    return model.requires_grad_(False).eval()


def told(given: dict[str, Tensor]) -> Told:
    return Told(
        height=given["height"],
        width=given["width"],
        ratio=given["ar"],
        num_frames=given["num_frames"],
        fps=given["fps"],
    )


def size(given: dict[str, Tensor]) -> tuple[float, float]:
    return float(given["height"][0]), float(given["width"][0])


# -- the denoiser ----------------------------------------------------------------------------------------

DENOISER_CASES = [*cases("stdit2_*", "cases"), *cases("stdit2_*", "cases", "opensora")]


@pytest.mark.parametrize(("folder", "case"), DENOISER_CASES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_stdit2(folder, case, checkpointing):
    model = denoiser(read(folder / "config.json")["config"], folder / "weights.safetensors")
    given = group(load_file(folder / "cases.safetensors"), case)
    recorded = group(given, "grad")
    parameters = dict(model.named_parameters())
    for name in recorded:
        parameters[name].requires_grad_()
    x, y = given["x"].requires_grad_(), given["y"].requires_grad_()
    out = model(
        x,
        given["timestep"],
        y[:, 0],
        given.get("mask"),
        given.get("x_mask"),
        told=told(given),
        size=size(given),
        recompute=checkpointing,
    )
    close(out, given["out"], OUTPUT)
    (out * given["grad_weight"]).sum().backward()
    close(x.grad, given["grad_x"], GRADIENT)
    if "grad_y" in given:
        close(y.grad, given["grad_y"], GRADIENT)
    for name, value in recorded.items():
        close(parameters[name].grad, value, GRADIENT, name)


def with_dropped_captions() -> list[Any]:
    found = []
    for one in DENOISER_CASES:
        folder, case = one.values
        with safe_open(folder / "cases.safetensors", framework="pt") as file:
            found += [one] if f"{case}.caption_dropped" in file.keys() else []  # noqa: SIM118 - no mapping
    return found


@pytest.mark.parametrize(("folder", "case"), with_dropped_captions())
def test_dropped_captions(folder, case):
    """Training drops a caption by putting the null text under the caption's own mask."""
    given = group(load_file(folder / "cases.safetensors"), case)
    model = denoiser(read(folder / "config.json")["config"], folder / "weights.safetensors")
    text = torch.where(
        given["caption_dropped"][:, None, None], model.y_embedder.y_embedding, given["y"][:, 0]
    )
    mask = given.get("mask")
    with torch.no_grad():
        out = model(
            given["x"], given["timestep"], text, mask, given.get("x_mask"), told=told(given), size=size(given)
        )
    close(out, given["out_caption_dropped"], OUTPUT)


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("path", golden_paths("opensora", "manifest_stdit2_full*.json"), ids=lambda p: p.name)
def test_stdit2_manifest(path):
    manifest = read(path)
    with torch.device("meta"):
        model = STDiT2(STDiT2Config())
    assert shapes(model) == manifest["state_dict"]
    # Officially the rotary frequencies are a parameter too, one that is never trained.
    held = [*model.parameters(), model.rope.freqs]
    assert sum(one.numel() for one in held) == manifest["num_parameters"]


# -- the image autoencoder -------------------------------------------------------------------------------


def autoencoder(config: dict[str, Any], weights: Path, image_batch: int = 4) -> ImageVAE:
    model = ImageVAE(config, image_batch)
    model.load_state_dict(load_file(weights), strict=True)
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize(("folder", "case"), cases("sd_vae_*", "cases"))
def test_image_autoencoder(folder, case):
    config = read(folder / "config.json")
    model = autoencoder(config["config"], folder / "weights.safetensors", config["micro_batch_size"])
    given = group(load_file(folder / "cases.safetensors"), case)
    frames = given["x"].transpose(1, 2).flatten(0, 1)
    close(model.module.encode(frames).latent_dist.parameters, given["moments"], OUTPUT)
    close(model.encode(frames) / config["scale"], given["moments"].chunk(2, dim=1)[0], OUTPUT)
    stored = iter(value for name, value in sorted(given.items()) if name.startswith("eps"))
    z = model.encode(frames, lambda shape: next(stored).reshape(shape))
    assert next(stored, None) is None
    close(z.unflatten(0, (len(given["x"]), -1)).transpose(1, 2), given["z_sampled"], OUTPUT)

    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        z = given["z_sampled"].clone().requires_grad_()
        decoded = model.decode(z.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(z), -1)).transpose(1, 2)
        close(decoded, given["decoded"], OUTPUT)
        (decoded * given["grad_weight_dec"]).sum().backward()
        close(z.grad, given["grad_z"], GRADIENT)


@pytest.mark.parametrize("path", folders("manifest_sd_vae_full*.json"), ids=lambda path: path.name)
def test_image_autoencoder_manifest(path):
    manifest = read(path)
    with torch.device("meta"):
        model = ImageVAE(Architecture().vae)
    assert shapes(model) == manifest
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == sum(int(torch.Size(shape).numel()) for shape in manifest.values())


# -- prompts and frame masks -----------------------------------------------------------------------------

RULES = [pytest.param(read(path), id=path.name) for path in folders("prompt_and_mask_rules*.json")]


@pytest.mark.parametrize("rules", RULES)
def test_prompts(rules):
    for prompt, loops, cleaned in rules["prompts"]:
        assert [prepare(prompt, segment=loop) for loop in range(loops)] == cleaned


@pytest.mark.parametrize("rules", RULES)
def test_options_at_the_end_of_a_prompt(rules):
    for prompt, text, options in rules["json_in_prompt"]:
        if text is None and "{" not in prompt:
            # Upstream takes a bracket for the start of options and fails; here it is text.
            assert parse_request(prompt) == Request(prompt)
        elif text is None or not set(options) <= {"reference_path", "mask_strategy"}:
            with pytest.raises(VaderError, match="prompt"):
                parse_request(prompt)
        else:
            assert parse_request(prompt) == Request(text, **options)


@pytest.mark.parametrize("rules", RULES)
def test_mask_strategies(rules):
    for strategy, frames, loop, latent_frames, mask, after in rules["mask_strategies"]:
        references = [
            torch.arange(1.0, frames + 1).view(1, -1, 1, 1) + 100 * number
            for number in range(1 + (strategy or "").count(";") + 1)
        ]
        parsed = [parse_strategy(strategy or "")]
        empty = torch.zeros(1, 1, latent_frames, 1, 1)
        if mask is None:
            with pytest.raises(VaderError):
                place(empty, [references], parsed, segment=loop)
            continue
        latents, found = place(empty, [references], parsed, segment=loop)
        assert found[0].tolist() == torch.tensor(mask).tolist()
        assert latents.flatten().tolist() == after


# -- sampling --------------------------------------------------------------------------------------------

TABLES = {
    "mean_clean": "posterior_mean_coef1",
    "mean_latents": "posterior_mean_coef2",
    "smallest_log_variance": "posterior_log_variance_clipped",
}


@pytest.mark.parametrize("folder", folders("iddpm_sampling_*"), ids=lambda folder: folder.name)
def test_sampling_tables(folder):
    config, given = read(folder / "config.json"), load_file(folder / "trace.safetensors")
    tables = group(given, "table")
    model = model_of(None, config["num_sampling_steps"], 1.0, None)
    plan = model.plan(GEOMETRY)
    for ours, official in TABLES.items():
        found = torch.tensor(plan.tables[ours], dtype=torch.float64).flip(0)
        torch.testing.assert_close(found, tables[official].double(), rtol=1e-6, atol=0)
    products = torch.tensor(plan.tables["alpha"]).square().flip(0)
    torch.testing.assert_close(products, tables["alphas_cumprod"], rtol=1e-5, atol=0)
    prefix = "timestep_map_"
    maps = {int(name.removeprefix(prefix)): one for name, one in tables.items() if name.startswith(prefix)}
    maps[config["num_sampling_steps"]] = tables["timestep_map"]
    for steps, official in maps.items():
        told = model_of(None, steps, 1.0, None).plan(GEOMETRY).timesteps
        assert [int(timestep) for timestep in reversed(told)] == official.tolist()


@pytest.mark.quick_cases("*-plain")
@pytest.mark.parametrize(("folder", "run"), cases("iddpm_sampling_*", "runs"))
def test_sampling(folder, run):
    config, given = read(folder / "config.json"), load_file(folder / "trace.safetensors")
    steps = config["num_sampling_steps"]
    network = denoiser(config["config"], beside(folder, config["weights"]))
    model = model_of(network, steps, config["cfg_scale"], config["cfg_channel"][run])
    recorded = group(given, run)
    start, noises, frames = given["z_init"], recorded.get("noises", given["plain.noises"]), {}
    if "frame_mask" in recorded:
        # Upstream draws twice a step, for frames that join and then for the step itself.
        frames = {"frame_mask": recorded["frame_mask"], "reference": start}
        start = with_joining_noise(start, recorded["frame_mask"], noises[0::2], steps, model.sampler, model)
        noises = noises[1::2]
    seen = {}
    with torch.no_grad():
        final = model.rollout(
            conditioning_of(given, network, **frames), GEOMETRY, stored(noises), noise=start,
            watch=lambda one: seen.update({one.index: one}),
        ).latents  # fmt: skip
    close(final, recorded["z_final"], SAMPLE)
    for name, value in recorded.items():
        step, _, what = name.removeprefix("step").partition(".")
        if not what:
            continue
        one = seen[int(step)]
        if what == "x_after":
            close(one.after, value, SAMPLE, name)
        elif what == "model_in":
            close(one.latents, value, SAMPLE, name)
        elif what == "model_timestep":
            assert set(value.tolist()) == {int(one.timestep)}
        elif what == "x_mask":
            check_generated(model, int(step), frames, value)
        elif what == "model_out":
            check_guided(one.prediction, value, config["cfg_scale"], config["cfg_channel"][run])
        elif what == "pred_xstart":
            plan = model.plan(GEOMETRY)
            estimate = model.sampler.clean(plan, int(step), State(one.latents), one.prediction)
            close(estimate, value, SAMPLE, name)


def check_generated(model: Model, step: int, frames: dict[str, Tensor], official: Tensor) -> None:
    told = model.sampler.told(model.plan(GEOMETRY), step, Conditioning(frames)).tensors["frame_mask"]
    assert torch.equal(told, official[: len(told)])


def check_guided(prediction: Prediction, out: Tensor, scale: float, channels: int | None) -> None:
    conditional, null = out.chunk(2)
    noise, variance = conditional.chunk(2, dim=1)
    guided = noise.clone()
    guided[:, :channels] = null[:, : noise.shape[1]][:, :channels] + scale * (
        noise[:, :channels] - null[:, : noise.shape[1]][:, :channels]
    )
    close(prediction.value, guided, SAMPLE)
    assert prediction.variance is not None
    close(prediction.variance, variance, SAMPLE)


def older_runs() -> list[Any]:
    """Runs of the first goldens of this model: five steps, noise stored for both halves of the batch."""
    found = []
    for folder in folders("stdit2_*", "opensora"):
        path = folder / "iddpm.safetensors"
        with safe_open(path, framework="pt") as file:
            names = sorted({name.partition(".")[0] for name in file.keys() if name.startswith("sample_")})  # noqa: SIM118
        found += [pytest.param(folder, name, id=f"{folder.name}-{name}") for name in names]
    return found


@pytest.mark.parametrize(("folder", "run"), older_runs())
def test_short_sampling(folder, run):
    given = load_file(folder / "iddpm.safetensors")
    network = denoiser(read(folder / "config.json")["config"], folder / "weights.safetensors")
    recorded = group(given, run)
    start, steps = recorded["z_init"], len(recorded["timestep_map"])
    model = model_of(network, steps, SHORT_SCALE, 3 if run.endswith("cfg3") else None)
    noises, frames = recorded["noises"][:, : len(start)], {}
    if "frame_mask" in recorded:
        frames = {"frame_mask": recorded["frame_mask"], "reference": start}
        start = with_joining_noise(start, recorded["frame_mask"], noises[0::2], steps, model.sampler, model)
        noises = noises[1::2]
    one = {name: value[: len(start)] for name, value in given.items() if name in ("y", "mask", *SCALARS)}
    with torch.no_grad():
        final = model.rollout(
            conditioning_of(one, network, **frames), GEOMETRY, stored(noises), noise=start
        ).latents
    close(final, recorded["z_final"], SAMPLE)


# -- the reward's gradient -------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "run"), cases("reward_grad_*", "runs"))
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_reward_gradient(folder, run, checkpointing):
    config, given = read(folder / "config.json"), load_file(folder / "grads.safetensors")
    network = denoiser(config["config"], beside(folder, config["weights"]))
    attach(network, config["lora"], load_file(folder / "lora_weights.safetensors"))
    vae = autoencoder(config["vae_config"], beside(folder, config["vae"]))
    model = model_of(network, config["num_sampling_steps"], config["cfg_scale"], config["cfg_channel"], vae)
    model.checkpointing = checkpointing
    asked, recorded = config["runs"][run], group(given, run)
    drawn = Drawn(frozenset(range(asked["first_differentiated_step"], model.num_steps)))
    rng = stored(given["noises"])
    with model.training(rng):
        rollout = model.rollout(conditioning_of(given, network), GEOMETRY, rng, drawn, noise=given["z_init"])
        if asked["decoded"]:
            video = model.decode(rollout.latents, GEOMETRY).transpose(1, 2) * 2 - 1
            loss = -(video * given["video_weight"]).sum()
        else:
            loss = -(rollout.latents * given["video_weight"][:, :1, :, ::8, ::8]).sum()
        loss.backward()
    close(rollout.latents, recorded["z_final"], SAMPLE)
    if asked["decoded"]:
        close(video, recorded["video"], SAMPLE)
    assert float(loss.detach()) == pytest.approx(asked["loss"], rel=REWARD)
    check_gradients(adapter_parameters(network), group(recorded, "grad"), REWARD)
    norm = torch.stack([value.grad.norm() for value in adapter_parameters(network).values()]).norm()
    assert float(norm) == pytest.approx(asked["grad_norm"], rel=REWARD)


def attach(network: STDiT2, lora: dict[str, Any], weights: dict[str, Tensor]) -> None:
    settings = LoraSettings(rank=lora["r"], alpha=lora["alpha"], targets=tuple(lora["target_modules"]))
    attach_lora(network, settings)
    set_adapter(network, Adapter(weights, rank=lora["r"], alpha=lora["alpha"]))


def check_gradients(parameters: dict[str, Any], recorded: dict[str, Tensor], tolerance: float) -> None:
    assert parameters.keys() == recorded.keys()
    for name, value in recorded.items():
        close(parameters[name].grad, value, tolerance, name)


# -- supervised training ---------------------------------------------------------------------------------


def losses(network: STDiT2, given: dict[str, Tensor], t: Tensor) -> tuple[LearnedRangeTerms, Tensor, Tensor]:
    """The terms of the loss, what the model was given, and what it said."""
    training = LearnedRange.linear(torch.float32)
    mask = given.get("x_mask")
    noised = training.noised(given["x_start"], given["noise"], t, mask)
    out = network(noised, t, given["y"][:, 0], given["mask"], mask, told=told(given), size=size(given))
    epsilon, share = out.chunk(2, dim=1)
    terms = training.terms(
        given["x_start"], given["noise"], noised, t, epsilon=epsilon, share=share, mask=mask
    )
    return terms, noised, out


@pytest.mark.parametrize(("folder", "run"), cases("iddpm_loss_*", "runs"))
def test_training_loss(folder, run):
    config, given = read(folder / "config.json"), group(load_file(folder / "loss.safetensors"), run)
    network = denoiser(config["config"], beside(folder, config["weights"]))
    recorded = group(given, "grad")
    parameters = dict(network.named_parameters())
    for name in recorded:
        parameters[name].requires_grad_()
    terms, noised, out = losses(network, given, given["t"])
    close(noised, given["x_t"], OUTPUT)
    close(out, given["model_out"], OUTPUT)
    for name in ("mse", "vb", "loss"):
        torch.testing.assert_close(getattr(terms, name), given[name], rtol=OUTPUT, atol=0)
    terms.loss.mean().backward()
    check_gradients({name: parameters[name] for name in recorded}, recorded, GRADIENT)


@pytest.mark.parametrize("run", ["train_plain", "train_masked"])
@pytest.mark.parametrize("folder", folders("stdit2_*", "opensora"), ids=lambda folder: folder.name)
def test_older_training_loss(folder, run):
    given = load_file(folder / "iddpm.safetensors")
    network = denoiser(read(folder / "config.json")["config"], folder / "weights.safetensors")
    if run == "train_masked":
        given["x_mask"] = given["frame_mask"]
    terms, _, _ = losses(network, given, given["t"])
    for name, value in group(given, run).items():
        torch.testing.assert_close(getattr(terms, name).detach(), value, rtol=OUTPUT, atol=0)


def batch(given: dict[str, Tensor], step: int, conditions: dict[str, float]) -> dict[str, Tensor]:
    one = group(given, f"step{step}")
    numbers = {name: torch.full((len(one["t"]),), float(value)) for name, value in conditions.items()}
    return one | numbers


@pytest.mark.parametrize("folder", folders("train_step_*"), ids=lambda folder: folder.name)
def test_lora_training_steps(folder):
    config, given = read(folder / "config.json"), load_file(folder / "lora.safetensors")
    network = denoiser(config["config"], beside(folder, config["weights"]))
    attach(network, config["lora"], group(given, "before"))
    parameters = adapter_parameters(network)
    train(network, parameters, config["lora"], config["conditions"], given)
    for name, value in group(given, "after").items():
        close(parameters[name], value, GRADIENT, name)


@pytest.mark.parametrize("folder", folders("train_step_*"), ids=lambda folder: folder.name)
def test_full_training_steps(folder):
    config, given = read(folder / "config.json"), load_file(folder / "full.safetensors")
    network = denoiser(config["config"], beside(folder, config["weights"]))
    frozen = set(config["full"]["frozen"])
    parameters = {name: one for name, one in network.named_parameters() if name not in frozen}
    for one in parameters.values():
        one.requires_grad_()
    before = {name: one.detach().clone() for name, one in parameters.items()}
    decay, average = config["full"]["ema_decay"], {name: one.clone() for name, one in before.items()}

    def averaged() -> None:
        for name, one in parameters.items():
            average[name].lerp_(one.detach(), 1 - decay)

    train(network, parameters, config["full"], config["conditions"], given, averaged)
    for kind, held in (("after", parameters), ("ema", average)):
        for name, value in group(given, kind).items():
            close(held[name], value, OUTPUT, name)
            # The step itself, which the size of the weights would hide.
            close(held[name].detach() - before[name], value - before[name], REWARD, name)


def train(
    network: STDiT2,
    parameters: dict[str, Any],
    how: dict[str, Any],
    conditions: dict[str, float],
    given: dict[str, Tensor],
    after: Callable[[], None] = lambda: None,
) -> None:
    """AdamW steps with the clip of the config, each step's loss and norm compared."""
    optimizer = torch.optim.AdamW(list(parameters.values()), **how["optimizer"])
    for step, recorded in enumerate(how["steps"]):
        one = batch(given, step, conditions)
        terms, _, _ = losses(network, one, one["t"])
        close(terms.loss, one["loss"], OUTPUT)
        optimizer.zero_grad()
        terms.loss.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), how["max_grad_norm"])
        assert float(norm) == pytest.approx(recorded["grad_norm_before_clip"], rel=GRADIENT)
        optimizer.step()
        after()


# -- validation with fixed noise -------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "run"), cases("validation_*", "runs", "training"))
def test_validation(folder, run):
    config, given = read(folder / "config.json"), load_file(folder / "validation.safetensors")
    network = denoiser(config["config"], beside(folder, config["weights"]))
    vae_folder = beside(folder, config["vae"])
    vae = autoencoder(read(vae_folder / "config.json")["config"], vae_folder / "weights.safetensors")
    steps = config["num_sampling_steps"]
    model = model_of(network, steps, config["cfg_scale"], config["cfg_channel"], vae)
    world, rank, size_of_batch = (int(part.lstrip("abcdefghijklmnopqrstuvwxyz")) for part in run.split("_"))
    recorded = group(given, run)
    prompts = list(range(len(given["y"])))[rank::world]
    shape = recorded["noise"].shape
    drawn = numpy.random.default_rng(config["noise_seed"]).normal(size=shape)
    assert torch.equal(torch.from_numpy(drawn), recorded["noise"])
    generator = torch.Generator().manual_seed(config["sampling_seed"])
    for start in range(0, len(prompts), size_of_batch):
        rows = prompts[start : start + size_of_batch]
        noise = recorded["noise"][start : start + size_of_batch].float()
        # Upstream draws for the doubled batch of both branches; the first half counts.
        noises = [
            torch.randn(2 * len(rows), *shape[1:], generator=generator)[: len(rows)] for _ in range(steps)
        ]
        height, width = config["image_size"]
        numbers = {"height": height, "width": width, "ar": height / width, "num_frames": config["num_frames"]}
        one = {name: torch.full((len(rows),), float(value)) for name, value in numbers.items()}
        one |= {"fps": torch.full((len(rows),), float(config["fps"]))}
        one |= {"y": given["y"][rows], "mask": given["mask"][rows]}
        with torch.no_grad():
            latents = model.rollout(
                conditioning_of(one, network), GEOMETRY, stored(noises), noise=noise
            ).latents
            video = model.decode(latents, GEOMETRY).transpose(1, 2) * 2 - 1
        for row, found in zip(rows, video, strict=True):
            close(found, recorded[f"sample_{row}"], SAMPLE, f"prompt {row}")
