"""Open-Sora 1.2 against numbers that the official code wrote.

Tolerances: running the official models in float64 moves the denoiser's output by about 3e-7 and the
autoencoder's by about 2e-6 (relative L2); the smallest genuine mistake probed moves the output by 8e-3 or
more. 1e-5 for outputs and 1e-4 for gradients lie between.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import golden_paths
from safetensors.torch import load_file
from torch import Tensor
from vader_opensora.architecture import STDiT3Config, TemporalVAEConfig, VideoVAEConfig
from vader_opensora.backbone import OpenSora
from vader_opensora.captions import (
    Request,
    append_scores,
    merge_segments,
    parse_request,
    segment_text,
    split_segments,
)
from vader_opensora.flow import add_noise, shifted, time_shift, training_loss
from vader_opensora.frame_masks import active_frames, aligned, parse_strategy, place
from vader_opensora.lora_format import OpenSoraLora
from vader_opensora.options import OpenSoraOptions
from vader_opensora.resolutions import frame_count, image_size
from vader_opensora.sampler import RFlow
from vader_opensora.stdit3 import STDiT3
from vader_opensora.video_vae import VideoVAE

from vader_core.caption_cleaning import clean, clean_once
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora, set_adapter
from vader_core.method.gradient import Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.randomness import Randomness
from vader_core.schedule import RectifiedFlow

pytestmark = pytest.mark.golden

OUTPUT = 1e-5
GRADIENT = 1e-4
SCHEDULE = RectifiedFlow(velocity_sign=-1)


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
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }


# -- the denoiser ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "case"), cases("stdit3_*", "cases"))
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_stdit3(folder, case, checkpointing):
    model = denoiser(read(folder / "config.json")["config"], folder / "weights.safetensors")
    given = group(load_file(folder / "cases.safetensors"), case)
    x, y = given["x"].requires_grad_(), given["y"].requires_grad_()
    out = model(
        x,
        given["timestep"],
        y[:, 0],
        given.get("mask"),
        given.get("x_mask"),
        fps=given["fps"],
        size=(float(given["height"][0]), float(given["width"][0])),
        recompute=checkpointing,
    )
    close(out, given["out"], OUTPUT)
    loss = (out * given["grad_weight"]).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(given["loss"]), rel=1e-4)
    close(x.grad, given["grad_x"], GRADIENT)
    close(y.grad, given["grad_y"], GRADIENT)


# -- the autoencoder -------------------------------------------------------------------------------------


def autoencoder(folder: Path) -> VideoVAE:
    config = read(folder / "config.json")
    temporal = {name: value for name, value in config["temporal_config"].items() if name != "activation"}
    model = VideoVAE(
        VideoVAEConfig(
            spatial=config["spatial_config"],
            temporal=TemporalVAEConfig(**temporal),
            # None is no cutting at all.
            chunk_frames=config["micro_frame_size"] or 10**6,
            image_batch=config["micro_batch_size"] or 10**6,
        )
    )
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    assert config["micro_z_frame_size"] in (None, model.config.chunk_latents)
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


# -- manifests -------------------------------------------------------------------------------------------


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


def test_stdit3_manifest():
    (path,) = golden_paths("opensora", "manifest_stdit3_full.json")
    manifest = read(path)
    with torch.device("meta"):
        model = STDiT3(STDiT3Config())
    assert shapes(model) == manifest["state_dict"]
    # Officially the rotary frequencies are a parameter too, one that is never trained.
    held = [*model.parameters(), model.rope.freqs]
    assert sum(one.numel() for one in held) == manifest["num_parameters"]


def test_vae_manifest():
    (path,) = golden_paths("opensora", "manifest_vae_full.json")
    manifest = read(path)
    with torch.device("meta"):
        model = VideoVAE(VideoVAEConfig())
    assert shapes(model) == manifest["state_dict"]
    count = {
        name: sum(p.numel() for p in getattr(model, name).parameters())
        for name in ("spatial_vae", "temporal_vae")
    }
    assert count == {
        "spatial_vae": manifest["spatial_parameters"],
        "temporal_vae": manifest["temporal_parameters"],
    }


# -- sizes and texts -------------------------------------------------------------------------------------


def test_image_sizes():
    for path in golden_paths("opensora", "image_sizes*.json"):
        for resolution, table in read(path)["sizes"].items():
            for ratio, size in table.items():
                if size is None:
                    with pytest.raises(VaderError, match="is not known"):
                        image_size(resolution, ratio)
                else:
                    assert image_size(resolution, ratio) == tuple(size), (resolution, ratio)


def test_frame_counts():
    for path in golden_paths("opensora", "conditioning*.json"):
        for spelt, frames in read(path)["get_num_frames"].items():
            length = spelt.strip("'") if "'" in spelt else int(spelt)
            if isinstance(frames, str):
                with pytest.raises(VaderError, match="num_frames"):
                    frame_count(length)
            else:
                assert frame_count(length) == frames


@pytest.mark.parametrize(
    "path", golden_paths("opensora", "caption_cleaning*.json"), ids=lambda path: path.name
)
def test_caption_cleaning(path):
    for sample in read(path)["samples"]:
        assert clean_once(sample["input"]) == sample["once"]
        assert clean(sample["input"]) == sample["output"]


RULES = [
    pytest.param(read(path), id=path.name) for path in golden_paths("opensora", "prompt_and_mask_rules*.json")
]


@pytest.mark.parametrize("rules", RULES)
def test_prompt_rules(rules):
    for case in rules["append_score"]:
        scored = append_scores(
            case["prompt"], aesthetic=case["aes"], motion=case["flow"], camera=case["camera_motion"]
        )
        assert scored == case["output"]
    for case in rules["split_and_merge"]:
        texts, starts = split_segments(case["prompt"])
        assert [texts, starts] == case["split"]
        assert merge_segments(texts, starts) == case["merged"]
    for case in rules["extract_prompts_loop"]:
        assert segment_text(case["prompt"], case["loop_index"]) == case["output"]
    for case in rules["extract_json"]:
        if "error" in case:
            with pytest.raises(VaderError, match="not valid JSON"):
                parse_request(case["prompt"])
        else:
            wanted = Request(case["prompt_out"], case["reference_path"], case["mask_strategy"])
            assert parse_request(case["prompt"]) == wanted


@pytest.mark.parametrize("rules", RULES)
def test_mask_rules(rules):
    for case in rules["parse_mask_strategy"]:
        assert [list(astuple(one)) for one in parse_strategy(case["strategy"])] == case["parsed"]
    for case in rules["find_nearest_point"]:
        assert aligned(case["value"], case["point"], case["max_value"]) == case["output"]
    for case in rules["apply_mask_strategy"]:
        if not case["strategies"]:
            continue
        batch = len(case["strategies"])
        reference = torch.arange(1.0, case["ref_frames"] + 1).view(1, -1, 1, 1)
        latents, mask = place(
            torch.zeros(batch, 1, case["z_frames"], 1, 1),
            [[reference]] * batch,
            [parse_strategy(strategy) for strategy in case["strategies"]],
            segment=case["loop_i"],
            unit=case["align"],
        )
        assert mask.tolist() == case["mask"]
        assert latents[:, 0, :, 0, 0].tolist() == case["z_after"]


# -- rectified flow --------------------------------------------------------------------------------------

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def timestep_cases() -> list[Any]:
    return [
        pytest.param(entry, id=f"{path.stem}-{kind}-{entry['resolution']}-{entry['num_frames']}")
        for path in golden_paths("opensora", "rflow_timesteps*.json")
        for kind, entries in read(path).items()
        if isinstance(entries, list) and entries and isinstance(entries[0], dict)
        for entry in entries
    ]


@pytest.mark.parametrize("entry", timestep_cases())
def test_timesteps(entry):
    geometry = Geometry(*entry["image_size"], entry["num_frames"], entry["fps"])
    for name, recorded in entry["by_conditioning_dtype"].items():
        sampler = RFlow(conditioning_dtype=DTYPES[name])
        if "nan" in recorded["timesteps"]:
            with pytest.raises(VaderError, match=r"nan|not allowed"):
                sampler.plan(SCHEDULE, entry["num_sampling_steps"], geometry)
        else:
            plan = sampler.plan(SCHEDULE, entry["num_sampling_steps"], geometry)
            # Rounding of float32 in units of 1000.
            assert plan.timesteps == pytest.approx(recorded["timesteps"], abs=1.3e-4)


def test_untransformed_timesteps():
    for path in golden_paths("opensora", "rflow_timesteps*.json"):
        recorded = read(path)
        for key in (key for key in recorded if key.startswith("untransformed_")):
            plan = RFlow(timestep_transform=False).plan(
                SCHEDULE, len(recorded[key]), Geometry(240, 426, 51, 24)
            )
            assert plan.timesteps == pytest.approx(recorded[key], abs=1e-4)


def backbone_of(model: STDiT3) -> OpenSora:
    """A backbone around a golden's denoiser; nothing else of it is used."""
    backbone = OpenSora(OpenSoraOptions(weights="random"), device=torch.device("cpu"), dtype=torch.float32)
    backbone.denoiser = model
    return backbone


def conditioning_of(
    given: dict[str, Tensor], model: STDiT3, frame_mask: Tensor | None, *, strict: bool
) -> Conditioning:
    text = given["y"][:, 0]
    tensors = {"text": text, "mask": given["mask"], "fps": given["fps"]}
    if frame_mask is not None:
        tensors["frame_mask"] = frame_mask
    null = model.y_embedder.y_embedding.expand_as(text)
    shared = {
        "size": (float(given["height"][0]), float(given["width"][0])),
        "text_length": None,
        "strict_mask": strict,
    }
    return Conditioning(tensors, tensors | {"text": null}, shared)


def geometry_of(config: dict[str, Any]) -> Geometry:
    return Geometry(*config["image_size"], config["num_frames"], config["fps"])


@pytest.mark.parametrize(("folder", "run"), cases("rflow_trace*", "runs"))
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "tolerant"])
def test_sampling_trace(folder, run, strict):
    config = read(folder / "config.json")
    given = load_file(folder / "trace.safetensors")
    model = denoiser(config["config"], folder / "weights.safetensors")
    backbone, recorded = backbone_of(model), group(given, run)
    # Strict is the official comparison of masks. Ours differs only where the first timestep overshoots 1000,
    # and there frames that are generated in full must not be touched.
    overshoots = bool((recorded["timesteps"] > 1000).any())
    conditioning = conditioning_of(given, model, recorded.get("frame_mask"), strict=strict)
    sampler = RFlow(timestep_transform=config["use_timestep_transform"])
    plan = sampler.plan(backbone.schedule, config["num_sampling_steps"], geometry_of(config))
    guidance = Guidance(config["cfg_scale"])
    state = sampler.start(plan, given["z_init"])
    for i in range(plan.num_steps):
        for told in recorded["timesteps"][i].tolist():
            assert plan.timesteps[i] == pytest.approx(told, abs=1.3e-4)
        noise = recorded["eps"][i] if "eps" in recorded else None
        with torch.no_grad():
            state = sampler.before_step(plan, i, state, conditioning, noise)
            timestep = torch.full((len(state.latents),), plan.timesteps[i])
            guided = guidance.predict(backbone, state.latents, timestep, conditioning)
            if strict or not overshoots:
                check_step(recorded, i, state.latents, guided.value, config["cfg_scale"])
            moved = sampler.step(plan, i, state, guided, noise)
            state = sampler.after_step(plan, i, moved, conditioning, noise)
    if strict or not overshoots:
        close(state.latents, recorded["z_final"], OUTPUT)
    else:
        unmasked = conditioning_of(given, model, None, strict=False)
        free = Model(backbone, sampler, guidance, plan.num_steps)
        plain = free.rollout(unmasked, geometry_of(config), Randomness(0), noise=given["z_init"]).latents
        whole = (recorded["frame_mask"] >= 1).all(dim=1)
        assert whole.any()
        close(state.latents[whole], plain[whole], OUTPUT)


def check_step(recorded: dict[str, Tensor], i: int, latents: Tensor, guided: Tensor, scale: float) -> None:
    close(latents, recorded["model_in"][i], OUTPUT)
    conditional, null = recorded["model_out"][i][:, : latents.shape[1]].chunk(2)
    close(guided, null + scale * (conditional - null), OUTPUT)
    if "frame_mask" in recorded:
        timestep = recorded["timesteps"][i][: len(latents)]
        active = active_frames(recorded["frame_mask"], timestep, strict=True)
        assert torch.equal(active, recorded["x_mask"][i][: len(active)])


@pytest.mark.parametrize(
    "folder",
    [
        folder
        for folder in golden_paths("opensora", "rflow_trace*")
        if (folder / "train_loss.safetensors").is_file()
    ],
    ids=lambda folder: folder.name,
)
def test_training_loss(folder):
    config = read(folder / "config.json")
    given = load_file(folder / "train_loss.safetensors")
    model = denoiser(config["config"], folder / "train_loss_weights.safetensors")
    scalars = {"fps": given["fps"], "size": (float(given["height"][0]), float(given["width"][0]))}

    def loss(frame_mask):
        def predict(latents, timesteps):
            text = given["y"][:, 0]
            return model(latents, timesteps, text, given["mask"], frame_mask, **scalars).chunk(2, dim=1)[0]

        return training_loss(predict, given["x_start"], given["noise"], given["t"], frame_mask)

    close(add_noise(given["x_start"], given["noise"], given["t"]), given["x_t"], OUTPUT)
    close(loss(None), given["loss_plain"], OUTPUT)
    close(loss(given["frame_mask"]), given["loss_masked"], OUTPUT)
    for name in (name for name in given if name.startswith("transform_out_")):
        size = [torch.tensor([float(number)]) for number in name.removeprefix("transform_out_").split("x")]
        close(shifted(given["transform_in"], time_shift(*size)), given[name], OUTPUT)


# -- the adapter -----------------------------------------------------------------------------------------


def with_lora(model: STDiT3, rank: int, alpha: float, targets: tuple[str, ...]) -> STDiT3:
    attach_lora(model, LoraSettings(rank=rank, alpha=alpha, targets=targets))
    return model


@pytest.mark.parametrize(("folder", "run"), cases("vader_grad_*", "runs"))
def test_lora_gradients(folder, run, tmp_path):
    config = read(folder / "config.json")
    given = load_file(folder / "grads.safetensors")
    model = denoiser(config["config"], folder / "base_weights.safetensors")
    lora = config["lora"]
    with_lora(model, lora["r"], lora["lora_alpha"], tuple(lora["target_modules"]))
    adapter = OpenSoraLora().read(folder / "lora_weights.safetensors")
    assert adapter.rank == lora["r"]
    set_adapter(model, adapter)
    backbone = backbone_of(model)
    frame_mask = given.get(f"{run}.frame_mask")
    conditioning = conditioning_of(given, model, frame_mask, strict=False)
    whole = Model(backbone, RFlow(), Guidance(config["cfg_scale"]), config["num_sampling_steps"])
    drawn = Drawn(frozenset(range(config["runs"][run]["cutoff_step"], whole.num_steps)))
    asked = (conditioning, geometry_of(config), Randomness(0), drawn)
    for recompute in (False, True):
        model.zero_grad()
        with backbone.checkpointing(recompute):
            final = whole.rollout(*asked, noise=given["z_init"]).latents
            close(final, given[f"{run}.z_final"], OUTPUT)
            (final * given["loss_weight"]).sum().backward()
        grads = {f"base_model.model.{name}": value.grad for name, value in adapter_parameters(model).items()}
        recorded = group(group(given, run), "grad")
        assert grads.keys() == recorded.keys()
        for name, value in recorded.items():
            close(grads[name], value, GRADIENT)
        norm = torch.stack([value.norm() for value in grads.values()]).norm()
        assert float(norm) == pytest.approx(config["runs"][run]["grad_global_norm"], rel=1e-4)


def test_lora_manifest():
    (path,) = golden_paths("opensora", "lora_manifest_full.json")
    manifest = read(path)
    with torch.device("meta"):
        model = STDiT3(STDiT3Config())
        backbone = OpenSora(OpenSoraOptions(), device=torch.device("meta"), dtype=torch.float32)
        attached = attach_lora(
            model, LoraSettings(rank=manifest["r"], alpha=8, targets=backbone.lora_targets)
        )
    assert attached.parameters == manifest["num_trainable_parameters"]
    ours = {
        f"base_model.model.{name}": list(value.shape) for name, value in adapter_parameters(model).items()
    }
    assert ours == manifest["keys"]
    assert set(backbone.lora_targets) == set(manifest["target_modules"])
