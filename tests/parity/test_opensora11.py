"""Open-Sora 1.1 against numbers that the official code wrote.

Tolerances: running the official denoiser in float64 moves its output by 3e-7 (relative L2); the smallest
genuine mistake probed (aspect ratio inverted) moves it by 8e-3. 1e-5 for outputs and 1e-4 for gradients lie
between. Sampling and reward gradients run over many steps and through latents of size 300: 1e-4 and 1e-3.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import golden_paths
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from vader_opensora.captions import Request, parse_request, prepare
from vader_opensora.frame_masks import parse_strategy, place
from vader_opensora.image_vae import ImageVAE
from vader_opensora.v11.architecture import Architecture, STDiT2Config
from vader_opensora.v11.stdit2 import STDiT2, Told

from vader_core.errors import VaderError

pytestmark = pytest.mark.golden

OUTPUT = 1e-5
GRADIENT = 1e-4


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
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest["num_parameters"]


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
