"""EasyAnimate V2 against numbers that the official code wrote.

Tolerances: a second, separate implementation agreed with the official code to 7e-7 in outputs and 3e-6 in
gradients (relative L2); 1e-5 and 1e-4 lie well above rounding and well below any genuine mistake.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from goldens import golden_paths
from safetensors.torch import load_file
from torch import Tensor
from vader_easyanimate.backbone import EasyAnimate
from vader_easyanimate.lora_format import EasyAnimateLora
from vader_easyanimate.lora_names import DENOISER_PREFIX, dotted, flattened
from vader_easyanimate.official_config import autoencoder_config, transformer_config
from vader_easyanimate.options import EasyAnimateOptions
from vader_easyanimate.pndm import EXTRA_CALLS
from vader_easyanimate.tile_size import Tiling
from vader_easyanimate.transformer import EasyAnimateTransformer
from vader_easyanimate.video_vae import LATENT_SCALE, VideoVAE

from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.lora.adapter import adapter_parameters, attach_adapter, lora_scale
from vader_core.lora.formats import Adapter
from vader_core.method.diffusion_loss import LearnedRange, LearnedRangeTerms
from vader_core.method.gradient import Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.prediction import Prediction
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.schedule import VariancePreserving

pytestmark = pytest.mark.golden

OUTPUT = 1e-5
GRADIENT = 1e-4


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    return float(
        (actual.detach().double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)
    )


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    distance = relative(actual, expected)
    assert distance <= tolerance, f"relative distance {distance:.2e} > {tolerance:.0e}"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def folders(pattern: str, file: str = "weights.safetensors") -> list[Any]:
    """Every golden folder of a kind that holds ``file``."""
    return [
        pytest.param(folder, id=folder.name)
        for folder in golden_paths("easyanimate", pattern)
        if (folder / file).is_file()
    ]


def transformer(folder: Path) -> EasyAnimateTransformer:
    model = EasyAnimateTransformer(transformer_config(read(folder / "config.json")))
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    return model.requires_grad_(False).eval()


# -- the denoiser ----------------------------------------------------------------------------------------


def test_goldens_are_there():
    assert folders("transformer_*")
    assert folders("vae_*")


def record_parts(model: EasyAnimateTransformer, keys: list[str], grid: tuple[int, int]) -> dict[str, Tensor]:
    """The first output of each part in the golden's layout, filled in by the next forward pass."""
    found: dict[str, Tensor] = {}

    def keep(key: str, out: Any) -> None:
        out = out[0] if isinstance(out, tuple) else out
        if key == "mid.pos_embed":
            out = out + model._position(grid, out.device, out.dtype)
        elif key.endswith(".attn_temporal"):
            out = out.unflatten(2, grid).permute(0, 4, 1, 2, 3)
        elif ".block" in key:
            out = out.flatten(1, 2)
        found.setdefault(key, out.detach())

    for key in keys:
        name = re.sub(r"^block(\d+)", r"transformer_blocks.\1", key.removeprefix("mid."))
        part = model.get_submodule(name)
        part.register_forward_hook(lambda module, args, out, key=key: keep(key, out))
    return found


@pytest.mark.parametrize("recompute", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("folder", folders("transformer_*"))
def test_transformer(folder, recompute):
    model = transformer(folder)
    given, wanted = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    latents = given["hidden_states"].requires_grad_()
    text = given["encoder_hidden_states"].requires_grad_()
    sizes = {name: given[name] for name in ("resolution", "aspect_ratio") if name in given}
    gradients = {
        key: model.get_parameter(key.removeprefix("grad_param.")) for key in wanted if "param" in key
    }
    assert gradients
    for parameter in gradients.values():
        parameter.requires_grad_()
    mask = given["encoder_attention_mask"]
    grid = (latents.shape[-2] // model.config.patch_size, latents.shape[-1] // model.config.patch_size)
    found = record_parts(model, [key for key in wanted if key.startswith("mid.")], grid)
    out = model(latents, given["timestep"], text, mask, recompute=recompute, **sizes)
    close(out, wanted["sample"], OUTPUT)
    (out * given["grad_output"]).sum().backward()
    close(latents.grad, wanted["grad_hidden_states"], GRADIENT)
    close(text.grad, wanted["grad_encoder_hidden_states"], GRADIENT)
    for key, parameter in gradients.items():
        close(parameter.grad, wanted[key], GRADIENT)
    for key, value in found.items():
        close(value, wanted[key], OUTPUT)
    first = model(latents[:, :, :1].detach(), given["timestep"], text.detach(), mask, **sizes)
    close(first, wanted["sample_one_frame"], OUTPUT)


# -- the autoencoders ------------------------------------------------------------------------------------


def autoencoder(folder: Path) -> VideoVAE:
    model = VideoVAE(autoencoder_config(read(folder / "config.json")))
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    return model.requires_grad_(False).eval()


def draws(tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
    return [tensors[key] for key in sorted(tensors) if key.startswith(prefix)]


@pytest.mark.parametrize("recompute", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("folder", folders("vae_*"))
def test_vae(folder, recompute):
    model = autoencoder(folder)
    model.gradient_checkpointing = recompute
    given, wanted = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    close(model.moments(given["video"]), wanted["moments"], OUTPUT)
    close(model.moments(given["image"]), wanted["image_moments"], OUTPUT)
    close(model.decode(given["image_latent"]), wanted["decoded_image"], OUTPUT)
    latent = given["latent"].requires_grad_()
    decoded = model.decode(latent)
    close(decoded, wanted["decoded"], OUTPUT)
    (decoded * given["grad_decoded"]).sum().backward()
    close(latent.grad, wanted["grad_latent"], GRADIENT)
    chosen = [decoded.shape[2] - 1, 0, decoded.shape[2] // 2]
    assert torch.allclose(model.decode(latent, chosen), decoded[:, :, chosen], atol=1e-6)


def with_parts() -> list[Any]:
    """Autoencoder goldens that hold the outputs of their parts."""
    return [
        one
        for one in folders("vae_*", "outputs.safetensors")
        if any(key.startswith("mid.") for key in load_file(one.values[0] / "outputs.safetensors"))
    ]


@pytest.mark.parametrize("folder", with_parts())
def test_vae_parts(folder):
    model, wanted = autoencoder(folder), load_file(folder / "outputs.safetensors")
    found: dict[str, Tensor] = {}
    for key in [key for key in wanted if key.startswith("mid.")]:
        part = model.get_submodule(key.removeprefix("mid."))
        part.register_forward_hook(lambda module, args, out, key=key: found.__setitem__(key, out))
    model.decode(load_file(folder / "inputs.safetensors")["latent"])
    assert found
    for key, value in found.items():
        close(value, wanted[key], OUTPUT)


def tilings() -> list[Any]:
    found = []
    for parameter in folders("vae_*", "outputs.safetensors"):
        folder = parameter.values[0]
        for key in load_file(folder / "outputs.safetensors"):
            if "_tiled_" in key:
                found.append(pytest.param(folder, key, id=f"{folder.name}-{key}"))
    return found


@pytest.mark.parametrize(("folder", "key"), tilings())
def test_tiling(folder, key):
    what, pixels, _ = key.replace("_tiled", "").rsplit("_", 2)
    model, given = autoencoder(folder), load_file(folder / "inputs.safetensors")
    model.tiling = Tiling(int(pixels), 0.25)
    if what == "moments":
        out = model.moments(given["video_for_tiling"])
    else:
        out = model.decode(given["latent_for_tiling"])
    close(out, load_file(folder / "outputs.safetensors")[key], OUTPUT)


@pytest.mark.parametrize("folder", folders("vae_*", "chunks_and_smoothing.safetensors"))
def test_chunks_and_smoothing(folder):
    model, held = autoencoder(folder), load_file(folder / "chunks_and_smoothing.safetensors")
    # one draw per clip and chunk; per clip alone in the slice variant
    noise, count = draws(held, "train.eps"), len(held["train.video"])
    rows = [torch.cat(noise[i * len(noise) // count :][: len(noise) // count], dim=2) for i in range(count)]
    latents = model.encode(held["train.video"], torch.cat(rows)) * LATENT_SCALE
    close(latents, held["train.latents"], OUTPUT)

    video = model.decode(held["smooth.latents"] / LATENT_SCALE).clamp(-1, 1)
    close(video, held["smooth.video_before"], OUTPUT)
    noise = torch.cat(draws(held, "smooth.eps"), dim=2)
    smooth = (model.smoothed(video, lambda shape: noise.view(shape)) / 2 + 0.5).clamp(0, 1)
    close(smooth, held["smooth.video"], OUTPUT)


# -- full-size names -------------------------------------------------------------------------------------


def manifests(kind: str) -> list[Any]:
    return [
        pytest.param(path, id=path.stem) for path in golden_paths("easyanimate", f"manifest_{kind}*.json")
    ]


def assert_same_names(actual: dict[str, list[int]], wanted: dict[str, list[int]]) -> None:
    assert actual.keys() == wanted.keys()
    assert {name: shape for name, shape in actual.items() if wanted[name] != shape} == {}


def shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in tensors.items()}


@pytest.mark.parametrize("path", manifests("transformer"))
def test_transformer_manifest(path):
    manifest = read(path)
    with torch.device("meta"):
        model = EasyAnimateTransformer(transformer_config(manifest["config"]))
    assert_same_names(shapes(model.state_dict()), manifest["state_dict"])
    assert sum(value.numel() for value in model.parameters()) == manifest["parameters"]
    assert sorted(name for name, _ in model.named_buffers()) == sorted(manifest["buffers"])


@pytest.mark.parametrize("path", manifests("vae"))
def test_vae_manifest(path):
    manifest = read(path)
    with torch.device("meta"):
        model = VideoVAE(autoencoder_config(manifest["config"]))
    assert_same_names(shapes(model.state_dict()), manifest["state_dict"])
    assert sum(value.numel() for value in model.parameters()) == manifest["parameters"]


def official_lora(model: EasyAnimateTransformer, rank: int, alpha: float) -> Adapter:
    """A LoRA of zeros in every linear layer."""
    linears = [(name, one) for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
    tensors = {}
    for name, one in linears:
        tensors[f"{name}.lora_A.weight"] = torch.zeros(rank, one.in_features)
        tensors[f"{name}.lora_B.weight"] = torch.zeros(one.out_features, rank)
    return Adapter(tensors, rank, alpha)


@pytest.mark.parametrize("path", manifests("lora"))
def test_lora_manifest(path):
    manifest = read(path)
    whole = golden_paths("easyanimate", "manifest_transformer*.json")[0]
    motion = any("attn_temporal" in name for name in manifest["state_dict"])
    with torch.device("meta"):
        model = EasyAnimateTransformer(transformer_config(read(whole)["config"]))
        adapter = official_lora(model, manifest["rank"], manifest["network_alpha"])
    named = {}
    for name, value in adapter.tensors.items():
        module, _, part = name.rpartition(".lora_")
        if "attn_temporal" in module and not motion:
            continue
        flat = DENOISER_PREFIX + flattened(module)
        named[f"{flat}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = list(value.shape)
        named[f"{flat}.alpha"] = []
    assert_same_names(named, manifest["state_dict"])


# -- LoRA ------------------------------------------------------------------------------------------------


def loras(file: str = "lora.safetensors") -> list[Any]:
    return folders("transformer_*", file)


@pytest.mark.parametrize("folder", loras())
def test_lora_round_trip(folder, tmp_path):
    given, path = load_file(folder / "lora.safetensors"), tmp_path / "again.safetensors"
    assert EasyAnimateLora().recognises(folder / "lora.safetensors")
    EasyAnimateLora().write(EasyAnimateLora().read(folder / "lora.safetensors"), path)
    again = load_file(path)
    assert again.keys() == given.keys()
    assert all(again[name].dtype == value.dtype for name, value in given.items())
    assert all(torch.equal(again[name], value) for name, value in given.items())


@pytest.mark.parametrize("folder", loras("lora_outputs.safetensors"))
def test_lora_live_and_merged(folder):
    model, said = transformer(folder), read(folder / "lora.json")
    adapter = EasyAnimateLora().read(folder / "lora.safetensors")
    assert (adapter.rank, adapter.alpha) == (said["rank"], said["network_alpha"])
    attached = attach_adapter(model, adapter, what="the golden")
    assert len(attached.modules) == said["modules"]
    given, wanted = load_file(folder / "inputs.safetensors"), load_file(folder / "lora_outputs.safetensors")
    arguments = (given["hidden_states"], given["timestep"], given["encoder_hidden_states"])
    mask = given["encoder_attention_mask"]
    with torch.no_grad():
        close(model(*arguments, mask), wanted["sample_live_multiplier_1"], OUTPUT)
        with lora_scale(model, said["merge_multiplier"]):
            close(model(*arguments, mask), wanted["sample_merged"], OUTPUT)


# -- sampling --------------------------------------------------------------------------------------------

#: The interface's words, and the samplers that stand for them.
SAMPLERS = {
    "DPM++": ("dpmpp", {}),
    "Euler": ("euler", {"timestep_spacing": "linspace"}),
    "Euler A": ("euler_ancestral", {}),
    "PNDM": ("pndm", {}),
    "DDIM": ("easyanimate_ddim", {"clip": 1.0}),
}
#: The official run against itself in float64 differs by 2e-6 (2e-4 for DDIM, which clips at every step).
LOOP = {"DDIM": 2e-3}


def loops() -> list[Any]:
    return [
        pytest.param(path, id=f"{path.parent.name}-{path.stem}")
        for path in golden_paths("easyanimate", "transformer_*/loop_*.json")
        if (path.parent / "weights.safetensors").is_file()
    ]


def schedule_of(said: dict[str, Any]) -> VariancePreserving:
    assert said["beta_schedule"] == "linear"
    betas = torch.linspace(said["beta_start"], said["beta_end"], 1000, dtype=torch.float64)
    return VariancePreserving(torch.cumprod(1.0 - betas, dim=0))


@pytest.mark.parametrize("path", loops())
def test_sampling_loop(path):
    said, model = read(path), transformer(path.parent)
    given = load_file(path.with_name(f"{path.stem}_inputs.safetensors"))
    wanted = load_file(path.with_name(f"{path.stem}_outputs.safetensors"))
    name, options = SAMPLERS[said["sampler"]]
    sampler = load_registry().get("sampler", name).make(options, device="cpu", dtype=torch.float32)
    kwargs = {"clip_sample": True, **said["scheduler_kwargs"]}
    assert kwargs["clip_sample"] or name != "easyanimate_ddim"
    steps = said["num_inference_steps"] + (EXTRA_CALLS if name == "pndm" else 0)
    plan = sampler.plan(schedule_of(kwargs), steps, Geometry(64, 64, 9, 24.0))
    text = torch.cat([given["negative_prompt_embeds"], given["prompt_embeds"]])
    mask = torch.cat([given["negative_prompt_attention_mask"], given["prompt_attention_mask"]])
    state = sampler.start(plan, given["initial_noise"])
    for i in range(plan.num_steps):
        latents = sampler.model_input(plan, i, state)
        assert plan.timesteps[i] == pytest.approx(float(wanted[f"timestep_{i}"]), abs=1e-4)
        with torch.no_grad():
            out = model(torch.cat([latents, latents]), torch.full((2,), plan.timesteps[i]), text, mask)
        negative, positive = out[:, : model.config.in_channels].chunk(2)
        guided = negative + said["guidance_scale"] * (positive - negative)
        state = sampler.step(plan, i, state, Prediction(guided), given.get(f"noise_{i}"))
        close(state.latents, wanted[f"latents_after_step_{i}"], LOOP.get(said["sampler"], 1e-4))


# -- reward gradients ------------------------------------------------------------------------------------


def strategies() -> list[Any]:
    return [
        pytest.param(path, name, id=f"{path.parent.name}-{path.stem}-{name}")
        for path in golden_paths("easyanimate", "transformer_*/reward_grad*.json")
        if (path.parent / "weights.safetensors").is_file()
        for name in read(path)["backprop_steps"]
    ]


def backbone_of(folder: Path, vae: Path) -> EasyAnimate:
    """The golden's networks behind the contract."""
    sizes = {
        "denoiser": asdict(transformer_config(read(folder / "config.json"))),
        "vae": asdict(autoencoder_config(read(vae / "config.json"))),
    }
    options = EasyAnimateOptions(weights="random", architecture=sizes)
    backbone = EasyAnimate(options, device=torch.device("cpu"), dtype=torch.float32)
    backbone.load()
    backbone.denoiser.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    backbone.autoencoder.load_state_dict(load_file(vae / "weights.safetensors"), strict=True)
    return backbone


def branches(given: dict[str, Tensor]) -> Conditioning:
    sides = [
        {"embeddings": given[f"{side}_embeds"], "mask": given[f"{side}_attention_mask"]}
        for side in ("prompt", "negative_prompt")
    ]
    return Conditioning(*sides)


@lru_cache(maxsize=1)
def tuned_backbone(folder: Path, vae: str) -> EasyAnimate:
    """With the golden's LoRA; built once for all strategies."""
    backbone = backbone_of(folder, folder.with_name(vae))
    attach_adapter(backbone.denoiser, EasyAnimateLora().read(folder / "lora.safetensors"), what="the golden")
    return backbone


@pytest.mark.quick_cases("*-last")
@pytest.mark.parametrize(("path", "strategy"), strategies())
def test_reward_gradient(path, strategy):
    said = read(path)
    backbone = tuned_backbone(path.parent, said["vae"])
    backbone.denoiser.zero_grad()
    given = load_file(path.with_name(f"{path.stem}_inputs.safetensors"))
    wanted = group(load_file(path.with_name(f"{path.stem}_outputs.safetensors")), strategy)
    kwargs = {"clip_sample": True, **said["scheduler_kwargs"]}
    name, options = SAMPLERS[said["scheduler"]]
    if name == "easyanimate_ddim":
        options = {"clip": 1.0 if kwargs["clip_sample"] else None}
    sampler = load_registry().get("sampler", name).make(options, device="cpu", dtype=torch.float32)
    noise = given["initial_noise"]
    height, width = (8 * side for side in noise.shape[-2:])
    geometry = Geometry(height, width, given["reward_weight"].shape[2], 24.0)
    model = Model(backbone, sampler, Guidance(said["guidance_scale"]), said["num_inference_steps"], geometry)
    chosen = frozenset(said["backprop_steps"][strategy])
    drawn = Drawn(chosen, detach_input=strategy.endswith("stop_input"))
    final = model.rollout(branches(given), geometry, Randomness(0), drawn, noise=noise).latents
    close(final, wanted["final_latents"], 1e-4)
    video = model.decode(final, geometry).clamp(0, 1).transpose(1, 2)
    close(video[:, :, : wanted["video"].shape[2]], wanted["video"], 1e-4)
    loss = -(video * given["reward_weight"]).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(wanted["loss"]), rel=1e-4)
    found = {name: value.grad for name, value in adapter_parameters(backbone.denoiser).items()}
    norm = torch.stack([value.norm() for value in found.values()]).norm()
    assert float(norm) == pytest.approx(float(wanted["grad_norm"]), rel=1e-3)
    recorded = group(wanted, "grad")
    assert recorded
    for key, value in recorded.items():
        close(found[adapter_name(key)], value, 1e-3)


def adapter_name(key: str) -> str:
    """The adapter's name of a tensor in the official files."""
    flat, _, part = key.removeprefix(DENOISER_PREFIX).partition(".lora_")
    return f"{dotted(flat)}.lora_{'A' if part.startswith('down') else 'B'}.weight"


def group(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }


# -- the training loss -----------------------------------------------------------------------------------

TABLES = LearnedRange.linear(torch.float64)
#: After three steps AdamW has turned gradients at rounding level into whole steps: single entries may differ.
STEPPED, STEPPED_MEDIAN = 5e-3, 1e-5


def terms_of(
    model: EasyAnimateTransformer, given: dict[str, Tensor], *, snr_loss: bool
) -> tuple[LearnedRangeTerms, Tensor]:
    """The loss of the golden's samples, and what the model was given."""
    noised = TABLES.add_noise(given["x_start"], given["noise"], given["t"])
    text, mask = given["encoder_hidden_states"], given["encoder_attention_mask"]
    epsilon, share = model(noised, given["t"].float(), text, mask).chunk(2, dim=1)
    clean, noise = given["x_start"], given["noise"]
    shares = {"epsilon": epsilon, "share": share}
    return TABLES.terms(clean, noise, noised, given["t"], snr_loss=snr_loss, **shares), noised


def close_terms(found: LearnedRangeTerms, wanted: dict[str, Tensor]) -> None:
    for name in ("mse", "vb", "loss"):
        close(getattr(found, name), wanted[name], OUTPUT)


@pytest.mark.parametrize("snr_loss", [False, True], ids=["plain", "snr"])
@pytest.mark.parametrize("folder", folders("transformer_*", "loss_inputs.safetensors"))
def test_loss(folder, snr_loss):
    model = transformer(folder)
    given = load_file(folder / "inputs.safetensors") | load_file(folder / "loss_inputs.safetensors")
    given["t"] = given["timestep"]
    wanted = group(load_file(folder / "outputs.safetensors"), "loss_snr" if snr_loss else "loss_plain")
    model.proj_out.weight.requires_grad_()
    found, noised = terms_of(model, given, snr_loss=snr_loss)
    close_terms(found, wanted)
    found.loss.mean().backward()
    if "x_t" in wanted:
        close(noised, wanted["x_t"], OUTPUT)
        close(model.proj_out.weight.grad, wanted["grad.proj_out.weight"], GRADIENT)


@pytest.mark.parametrize("mode", ["plain", "snr"])
@pytest.mark.parametrize("folder", folders("transformer_*", "loss_edges.safetensors"))
def test_loss_at_the_edges(folder, mode):
    model, held = transformer(folder), load_file(folder / "loss_edges.safetensors")
    wanted = group(held, mode)
    gradients = {name: model.get_parameter(name).requires_grad_() for name in group(wanted, "grad")}
    found, _ = terms_of(model, held, snr_loss=mode == "snr")
    close_terms(found, wanted)
    found.loss.mean().backward()
    assert gradients
    for name, parameter in gradients.items():
        close(parameter.grad, wanted[f"grad.{name}"], GRADIENT)


def lora_runs() -> list[Any]:
    return [
        pytest.param(path, id=f"{path.parent.name}-{path.stem}")
        for path in golden_paths("easyanimate", "transformer_*/lora_steps_*.json")
        if (path.parent / "weights.safetensors").is_file()
    ]


@pytest.mark.slow_cases("*snr")
@pytest.mark.parametrize("path", lora_runs())
def test_lora_training_steps(path):
    said, held = read(path), load_file(path.with_suffix(".safetensors"))
    before = group(held, "before") or group(
        load_file(path.with_name("lora_steps_plain.safetensors")), "before"
    )
    model = transformer(path.parent)
    start = official_lora(model, said["rank"], said["alpha"])
    tensors = {**start.tensors, **{adapter_name(key): value for key, value in before.items()}}
    attached = attach_adapter(model, Adapter(tensors, said["rank"], said["alpha"]), what="the golden")
    assert len(attached.modules) == said["modules"] == len(before)
    parameters = adapter_parameters(model)
    optimizer = torch.optim.AdamW(parameters.values(), **said["optimizer"])
    for index, step in enumerate(said["steps"]):
        given = group(held, f"step{index}")
        found, _ = terms_of(model, given, snr_loss=said["snr_loss"])
        close_terms(found, given)
        assert float(found.loss.mean().detach()) == pytest.approx(step["loss"], rel=1e-5)
        optimizer.zero_grad()
        found.loss.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), said["max_grad_norm"])
        assert float(norm) == pytest.approx(step["grad_norm_before_clip"], rel=1e-4)
        optimizer.step()
    after = group(held, "after")
    assert after
    distances = [relative(parameters[adapter_name(key)], value) for key, value in after.items()]
    assert max(distances) <= STEPPED
    assert median(distances) <= STEPPED_MEDIAN
