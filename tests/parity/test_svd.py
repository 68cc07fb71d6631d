"""Stable Video Diffusion against numbers of diffusers' own pipeline (float32, CPU, tiny random weights).

Tolerance 1e-4 relative to the largest magnitude: the same float32 arithmetic in another order, over five
guided steps. The stored image latents themselves lie 4e-6 (relative) from a float64 evaluation, which
bounds what can be asked.
"""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from goldens import golden_paths
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from vader_svd.architecture import NAMED, PARTS
from vader_svd.backbone import GUIDANCE, SvdBackbone
from vader_svd.checkpoint import tensor_file
from vader_svd.networks import build_autoencoder, build_unet
from vader_svd.options import SvdConfig

from vader_core import Geometry
from vader_core.builtin.samplers.euler import Euler
from vader_core.conditioning import Conditioning
from vader_core.method.gradient import NO_GRADIENT, Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.randomness import Randomness

pytestmark = pytest.mark.golden

PLUGIN = "svd"
TOLERANCE = 1e-4
CHUNK = re.compile(r"frames_decode_chunk(\d+)")
#: The pipeline's clamped frames and the training steps were decoded two frames at a time.
DECODE_CHUNK = 2
SAMPLE_STEPS = 5
#: Cross-attention to a single token ignores its query and key: their gradients are rounding noise around
#: zero.
WITHOUT_EFFECT = re.compile(r"attn2\.to_[qk]\.")
ROUNDING = 1e-6


def found(pattern: str) -> list[Path]:
    """Every golden of a kind; none at all is a mistake of the caller's folders, no reason to test nothing."""
    paths = golden_paths(PLUGIN, pattern)
    if not paths:
        raise FileNotFoundError(
            f"no golden {PLUGIN}/{pattern}: set VADER_GOLDENS to the folder that holds them"
        )
    return paths


def companion(case: Path, name: str) -> Path:
    """The file ``name`` that belongs to ``case``: beside it, or else wherever it is found."""
    beside = case.parent / name
    return beside if beside.is_file() else found(name)[0]


def golden_id(path: Path) -> str:
    return path.stem


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, what
    deviation = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
    assert deviation < TOLERANCE, f"{what}: off by {deviation:.2e} of the largest magnitude"


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Lay a golden's flat weights out as diffusers does, so that the backbone's own reader is tested."""

    @cache
    def lay_out(config_file: Path, folder: Path) -> Path:
        configs = json.loads(config_file.read_text())
        root = tmp_path_factory.mktemp("layout")
        for part in PARTS:
            (root / part).mkdir()
            (root / part / "config.json").write_text(json.dumps(configs[part]))
            shutil.copy(companion(folder / "any", f"{part}_tiny.safetensors"), root / tensor_file(part, None))
        (root / "scheduler").mkdir()
        (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
        return root

    return lay_out


def golden_backbone(case: Path, layout, **options) -> SvdBackbone:
    folder = layout(companion(case, "tiny_configs.json"), case.parent)
    config = SvdConfig(weights=str(folder), architecture=str(folder), **options)
    backbone = SvdBackbone(config, device=torch.device("cpu"), dtype=torch.float32)
    backbone.load()
    return backbone


def golden_options(sample: dict[str, torch.Tensor]) -> dict[str, float]:
    """Micro-conditioning as it was stored: (fps - 1, motion bucket, noise augmentation)."""
    _, bucket, augmentation = sample["added_time_ids"][-1].tolist()
    return {"motion_bucket_id": bucket, "noise_aug_strength": augmentation}


def golden_geometry(sample: dict[str, torch.Tensor]) -> Geometry:
    height, width, _ = sample["image_uint8"].shape
    return Geometry(height, width, sample["latents"].shape[1], sample["added_time_ids"][-1, 0].item() + 1)


def golden_conditioning(sample: dict[str, torch.Tensor]) -> Conditioning:
    """The stored conditioning; guidance order is (zeros, conditional)."""
    negative, positive = (
        {
            "image_embeddings": sample["image_embeddings"][side : side + 1],
            "image_latents": sample["image_latents"][side : side + 1, 0],
            "added_time_ids": sample["added_time_ids"][side : side + 1],
        }
        for side in (0, 1)
    )
    return Conditioning(positive, negative)


def roll_out(backbone: SvdBackbone, sample: dict[str, torch.Tensor], steps: int, drawn: Drawn):
    model = Model(backbone, Euler(), Guidance(GUIDANCE), steps)
    noise = sample["latents"].transpose(1, 2)
    asked = (golden_conditioning(sample), golden_geometry(sample), Randomness(0), drawn)
    return model.rollout(*asked, noise=noise).latents


def number_of_steps(case: Path, name: str) -> int:
    values = json.loads(companion(case, "values.json").read_text())
    return int(values.get(name, {}).get("steps", SAMPLE_STEPS))


@pytest.mark.parametrize("case", found("**/sample*.safetensors"), ids=golden_id)
def test_sampling_equals_the_pipeline(case, layout):
    sample = load_file(case)
    backbone = golden_backbone(case, layout, **golden_options(sample))
    geometry = golden_geometry(sample)
    image = sample["image_uint8"].permute(2, 0, 1)[None] / 255.0

    with torch.no_grad():
        embeddings = backbone.embed_images([image])
        image_latents = backbone.encode_first_frames(image, sample["image_noise"])
    close(embeddings, sample["image_embeddings"][1:], "image embeddings")
    close(image_latents, sample["image_latents"][1:, 0], "image latents")

    latents = roll_out(backbone, sample, number_of_steps(case, case.stem), NO_GRADIENT)
    close(latents.transpose(1, 2), sample["final_latents"], "final latents")

    decoded = {}
    for key in [name for name in sample if CHUNK.fullmatch(name)]:
        chunk = int(CHUNK.fullmatch(key)[1])
        backbone.config = backbone.config.model_copy(update={"decode_chunk": chunk})
        with torch.no_grad():
            decoded[chunk] = backbone.decode(latents, geometry)[0]
        close(decoded[chunk] * 2 - 1, sample[key], key)
    close(decoded[DECODE_CHUNK].clamp(0, 1), sample["frames_01_pipeline"], "the pipeline's own frames")


def trained(case: Path, sample, cotangent, first: int, steps: int, layout):
    """Frames, final latents and LoRA gradients, differentiable from step ``first`` to the end."""
    backbone = golden_backbone(case, layout, decode_chunk=DECODE_CHUNK, **golden_options(sample))
    tensors = load_file(companion(case, "lora_tiny.safetensors"))
    rank = next(value.shape[0] for name, value in tensors.items() if ".lora_A." in name)
    modules = sorted({name.partition(".lora_")[0] for name in tensors})
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=modules)
    inject_adapter_in_model(config, backbone.denoiser)
    outcome = set_peft_model_state_dict(backbone.denoiser, tensors)
    assert not outcome.unexpected_keys
    latents = roll_out(backbone, sample, steps, Drawn(frozenset(range(first, steps))))
    frames = backbone.decode(latents, golden_geometry(sample))[0] * 2 - 1
    (frames * cotangent).sum().backward()
    gradients = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in backbone.denoiser.named_parameters()
        if parameter.requires_grad
    }
    assert len(gradients) == len(tensors)
    return frames.detach(), latents.detach(), gradients


def first_step(name: str, steps: int) -> int:
    return steps - 1 if name == "last" else int(name.removeprefix("from"))


@pytest.mark.parametrize("case", found("**/train_step_*.safetensors"), ids=golden_id)
def test_a_training_step_equals_the_reference(case, layout):
    golden = load_file(case)
    name = case.stem.removeprefix("train_step_")
    steps = number_of_steps(case, name)
    sample = load_file(companion(case, "sample.safetensors"))
    frames, latents, gradients = trained(
        case, sample, golden["cotangent"], first_step(name, steps), steps, layout
    )
    close(frames, golden["frames"], "frames")
    close(latents.transpose(1, 2), golden["final_latents"], "final latents")
    stored = {key.removeprefix("grad."): value for key, value in golden.items() if key.startswith("grad.")}
    largest = max(float(value.abs().max()) for value in stored.values())
    for key, value in stored.items():
        if WITHOUT_EFFECT.search(key):
            assert gradients[key].abs().max() < ROUNDING * largest
            assert value.abs().max() < ROUNDING * largest
        else:
            close(gradients[key], value, key)


@pytest.mark.quick_cases("last")
@pytest.mark.parametrize("name", list(json.loads(found("values.json")[0].read_text())))
def test_gradient_norms_equal_the_reference(name, layout):
    source = found("values.json")[0]
    value = json.loads(source.read_text())[name]
    sample = load_file(companion(source, "sample.safetensors"))
    cotangent = load_file(companion(source, "train_step_last.safetensors"))["cotangent"]
    *_, gradients = trained(source, sample, cotangent, value["start_step"], value["steps"], layout)
    norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt().item()
    assert norm == pytest.approx(value["grad_norm"], rel=TOLERANCE)
    assert len(gradients) == value["grad_tensors"]
    assert sum(bool(gradient.any()) for gradient in gradients.values()) == value["nonzero"]


@pytest.mark.parametrize("case", found("**/schedule*.safetensors"), ids=golden_id)
def test_the_noise_levels_are_the_published_ones(case):
    tensors = load_file(case)
    backbone = SvdBackbone(SvdConfig(weights="random"), device=torch.device("cpu"), dtype=torch.float32)
    for key in [name for name in tensors if name.startswith("sigmas_")]:
        steps = int(key.removeprefix("sigmas_"))
        plan = Euler().plan(backbone.schedule, steps, backbone.defaults.geometry)
        sigmas = torch.tensor([*plan.tables["sigma"], 0.0])
        torch.testing.assert_close(sigmas, tensors[key], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            torch.tensor(plan.timesteps), tensors[f"timesteps_{steps}"], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("architecture", ["full", "xt"])
@pytest.mark.parametrize(("part", "build"), [("unet", build_unet), ("vae", build_autoencoder)])
def test_the_networks_have_the_published_tensors(part, build, architecture):
    manifest = json.loads(found(f"{part}_full_manifest.json")[0].read_text())
    with torch.device("meta"):
        module = build(NAMED[architecture])
    assert {name: list(value.shape) for name, value in module.state_dict().items()} == manifest
