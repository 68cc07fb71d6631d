"""Open-Sora 1.2 against numbers that the official code wrote.

Tolerances: running the official models in float64 moves the denoiser's output by about 3e-7 and the autoencoder's by
about 2e-6 (relative L2); the smallest genuine mistake probed moves the output by 8e-3 or more. 1e-5 for outputs and 1e-4
for gradients lie between.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import golden_paths
from safetensors.torch import load_file
from torch import Tensor

from vader_opensora.stdit3 import STDiT3, STDiT3Config
from vader_opensora.temporal_vae import TemporalVAEConfig
from vader_opensora.video_vae import VideoVAE, VideoVAEConfig

pytestmark = pytest.mark.golden

OUTPUT = 1e-5
GRADIENT = 1e-4


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    distance = relative(actual, expected)
    assert distance <= tolerance, f"relative distance {distance:.2e} > {tolerance:.0e}"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def cases(pattern: str, key: str) -> list[Any]:
    """(folder, case name) for every case that every matching folder's config lists."""
    return [
        pytest.param(folder, name, id=f"{folder.name}-{name}")
        for folder in golden_paths("opensora", pattern)
        for name in read(folder / "config.json").get(key, {})
    ]


def denoiser(config: dict[str, Any], weights: Path) -> STDiT3:
    names = STDiT3Config.__dataclass_fields__
    model = STDiT3(STDiT3Config(**{name: value for name, value in config.items() if name in names}))
    model.load_state_dict(load_file(weights), strict=True)
    return model.requires_grad_(False).eval()


def group(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


# -- the denoiser ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "case"), cases("stdit3_*", "cases"))
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_stdit3(folder, case, checkpointing):
    model = denoiser(read(folder / "config.json")["config"], folder / "weights.safetensors")
    model.gradient_checkpointing = checkpointing
    given = group(load_file(folder / "cases.safetensors"), case)
    x, y = given["x"].requires_grad_(), given["y"].requires_grad_()
    out = model(
        x,
        given["timestep"],
        y[:, 0],
        given.get("mask"),
        given.get("x_mask"),
        fps=given["fps"],
        height=float(given["height"][0]),
        width=float(given["width"][0]),
    )
    close(out, given["out"], OUTPUT)
    loss = (out * given["grad_weight"]).sum()
    loss.backward()
    assert float(loss) == pytest.approx(float(given["loss"]), rel=1e-4)
    close(x.grad, given["grad_x"], GRADIENT)
    close(y.grad, given["grad_y"], GRADIENT)


# -- the autoencoder ---------------------------------------------------------------------------------------


def autoencoder(folder: Path) -> VideoVAE:
    config = read(folder / "config.json")
    temporal = {name: value for name, value in config["temporal_config"].items() if name != "activation"}
    model = VideoVAE(
        VideoVAEConfig(
            spatial=config["spatial_config"],
            temporal=TemporalVAEConfig(**temporal),
            chunk_frames=config["micro_frame_size"],
            image_batch=config["micro_batch_size"],
        )
    )
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    assert model.config.chunk_latents == config["micro_z_frame_size"]
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize(("folder", "case"), cases("vae_*", "cases"))
def test_vae_encodes_and_decodes(folder, case):
    model = autoencoder(folder)
    given = group(load_file(folder / "cases.safetensors"), case)
    x = given["x"].requires_grad_()
    images = model.encode_images(x.transpose(1, 2).flatten(0, 1))
    close(images.unflatten(0, (len(x), -1)).transpose(1, 2), given["spatial_latent_mode"], OUTPUT)
    z = model.encode(x)
    close(z, given["z_mode"], OUTPUT)
    (z * given["grad_weight_z"]).sum().backward()
    close(x.grad, given["grad_x"], GRADIENT)

    z = given["z_mode"].requires_grad_()
    decoded = model.decode(z, x.shape[2])
    close(decoded, given["decoded"], OUTPUT)
    (decoded * given["grad_weight_dec"]).sum().backward()
    close(z.grad, given["grad_z"], GRADIENT)


@pytest.mark.parametrize(("folder", "case"), cases("vae_*", "cases"))
def test_vae_samples(folder, case):
    model = autoencoder(folder)
    given = group(load_file(folder / "cases.safetensors"), case)
    stored = iter(value for name, value in sorted(given.items()) if name.startswith("eps"))
    z = model.encode(given["x"], lambda shape: next(stored).reshape(shape))
    close(z, given["z_sampled"], OUTPUT)
    assert next(stored, None) is None


@pytest.mark.parametrize(("folder", "case"), cases("vae_*", "decode_only"))
def test_vae_decodes_latents(folder, case):
    model = autoencoder(folder)
    given = group(load_file(folder / "cases.safetensors"), case)
    num_frames = read(folder / "config.json")["decode_only"][case]["num_frames"]
    z = given["z"].requires_grad_()
    decoded = model.decode(z, num_frames)
    close(decoded, given["decoded"], OUTPUT)
    (decoded * given["grad_weight"]).sum().backward()
    close(z.grad, given["grad_z"], GRADIENT)
    # A frame decoded alone is the full decode's.
    for frames in ([num_frames - 1], [num_frames // 2, 0]):
        close(model.decode(z, num_frames, frames), given["decoded"][:, :, frames], OUTPUT)


def test_latent_sizes():
    for path in golden_paths("opensora", "latent_sizes*.json"):
        table = read(path)
        config = VideoVAEConfig()
        for frames, latents in table["micro_frame_size_17_frames_to_latent"]:
            assert config.latent_frames(frames) == latents


# -- manifests ---------------------------------------------------------------------------------------------


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


def test_stdit3_manifest():
    (path,) = golden_paths("opensora", "manifest_stdit3_full.json")
    manifest = read(path)
    with torch.device("meta"):
        model = STDiT3(STDiT3Config())
    assert shapes(model) == manifest["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest["num_parameters"]


def test_vae_manifest():
    (path,) = golden_paths("opensora", "manifest_vae_full.json")
    manifest = read(path)
    with torch.device("meta"):
        model = VideoVAE(VideoVAEConfig())
    assert shapes(model) == manifest["state_dict"]
    count = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("spatial_vae", "temporal_vae")}
    assert count == {"spatial_vae": manifest["spatial_parameters"], "temporal_vae": manifest["temporal_parameters"]}
