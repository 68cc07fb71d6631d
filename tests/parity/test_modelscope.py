"""ModelScope against numbers of the official training code (float32, CPU, random weights).

Tolerance 1e-4 relative to the largest magnitude: the same float32 arithmetic in another order, over up to
five guided steps.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from goldens import golden_paths
from safetensors.torch import load_file
from vader_modelscope.architecture import FULL, TINY
from vader_modelscope.backbone import ModelScope
from vader_modelscope.lora_format import ListFormat, architecture_shapes
from vader_modelscope.options import ModelScopeConfig

from vader_core.builtin.samplers.ddim import DDIM
from vader_core.builtin.samplers.dpmpp import DPMSolver
from vader_core.builtin.samplers.options import DDIMOptions, DPMSolverOptions
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.lora.adapter import adapter_parameters, attach_adapter
from vader_core.method.gradient import Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.randomness import Randomness
from vader_core.weights import load_exactly

pytestmark = pytest.mark.golden

PLUGIN = "modelscope"
TOLERANCE = 1e-4
STEPS = 5
GUIDANCE = 9.0
POLICY = re.compile(
    r"train_policy_(?P<sampler>dpm|ddim)_(?P<gradient>last|cut\d+)_(?P<frames>frame\d+|alt|all)"
)

#: The samplers of the official code, in our words: diffusers' class configured from the hub's DDIM file.
SAMPLERS = {
    "dpm": DPMSolver(DPMSolverOptions(timestep_spacing="linspace")),
    "ddim": DDIM(DDIMOptions(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)),
}


def golden_id(path: Path) -> str:
    return path.stem


def found(pattern: str) -> list[Path]:
    """Every golden of a kind; a test over none would prove nothing."""
    paths = golden_paths(PLUGIN, pattern)
    if not paths:
        raise FileNotFoundError(f"no golden {PLUGIN}/{pattern}: set VADER_GOLDENS to their folder")
    return paths


def companion(case: Path, name: str) -> Path:
    """The file ``name`` that belongs to ``case``: beside it, or else wherever it is found."""
    beside = case.parent / name
    return beside if beside.is_file() else found(name)[0]


def deviation(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, relative to the largest magnitude of ``theirs``."""
    assert ours.shape == theirs.shape
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


def golden_backbone(case: Path) -> ModelScope:
    """The tiny model with the official weights that belong to ``case``."""
    parts = {
        part: json.loads(companion(case, f"{part}_tiny.config.json").read_text()) for part in ("unet", "vae")
    }
    architecture = {**parts, "text_encoder": TINY.text_encoder}
    config = ModelScopeConfig(weights="random", architecture=architecture)
    backbone = ModelScope(config, device=torch.device("cpu"), dtype=torch.float32)
    backbone.load()
    modules = {"unet": backbone.denoiser, "vae": backbone.autoencoder}
    for part, module in modules.items():
        load_exactly(module, load_file(companion(case, f"{part}_tiny.safetensors")), what=part)
    return backbone


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("case", found("forward_*.safetensors"), ids=golden_id)
def test_forward(case, checkpointing):
    golden = load_file(case)
    backbone = golden_backbone(case)
    sample = golden["sample"].requires_grad_("grad_sample" in golden)
    watched = {key.removeprefix("grad."): value for key, value in golden.items() if key.startswith("grad.")}
    parameters = dict(backbone.denoiser.named_parameters())
    for name in watched:
        parameters[name].requires_grad_(True)

    timestep = golden["timestep"].float().expand(len(sample))
    with backbone.checkpointing(checkpointing):
        output = backbone.predict(
            sample, timestep, Conditioning({"embeddings": golden["encoder_hidden_states"]})
        ).value
        assert deviation(output, golden["output"]) < TOLERANCE
        if "cotangent" in golden:
            (output * golden["cotangent"]).sum().backward()

    assert bool(watched) == ("cotangent" in golden)
    for name, gradient in watched.items():
        assert deviation(parameters[name].grad, gradient) < TOLERANCE, name
    if "grad_sample" in golden:
        assert deviation(sample.grad, golden["grad_sample"]) < TOLERANCE


def official_lora(case: Path, folder: Path) -> Path:
    """The stored LoRA as the bare list that the official code writes."""
    named = load_file(companion(case, "lora_cloneofsimo_tiny.safetensors"))
    order = json.loads(companion(case, "lora_cloneofsimo_order.json").read_text())
    stems = [f"{entry['index']:04d}.{entry['module']}" for entry in order]
    path = folder / "5_unet.pt"
    torch.save([named[f"{stem}.{side}"] for stem in stems for side in ("up", "down")], path)
    return path


def attach(backbone: ModelScope, path: Path) -> dict[str, torch.Tensor]:
    """Load a list file into the U-Net; the LoRA's parameters by module and side."""
    adapter = ListFormat(architecture_shapes(backbone.architecture)).read(path)
    attach_adapter(backbone.denoiser, adapter, what=str(path))
    sides = {"lora_A.weight": "down", "lora_B.weight": "up"}
    named = {
        tuple(name.split(".lora_")): value for name, value in adapter_parameters(backbone.denoiser).items()
    }
    return {f"{module}.{sides[f'lora_{side}']}": value for (module, side), value in named.items()}


@pytest.mark.parametrize("case", found("train_policy_*.safetensors"), ids=golden_id)
def test_train_policy(case, tmp_path):
    kind = POLICY.fullmatch(case.stem)
    assert kind, f"{case.stem}: unknown kind of golden"
    golden = load_file(case)
    backbone = golden_backbone(case)
    lora = attach(backbone, official_lora(case, tmp_path))
    noise = golden["latents"]
    stride = backbone.architecture.vae_stride
    geometry = Geometry(noise.shape[-2] * stride, noise.shape[-1] * stride, noise.shape[2], 8.0)

    conditioning = Conditioning(
        {"embeddings": golden["prompt_embeds"]}, {"embeddings": golden["negative_prompt_embeds"]}
    )
    first = STEPS - 1 if kind["gradient"] == "last" else int(kind["gradient"].removeprefix("cut"))
    drawn = Drawn(frozenset(range(first, STEPS)))
    rng = Randomness(seed=0, samples=tuple(range(len(noise))))
    model = Model(backbone, SAMPLERS[kind["sampler"]], Guidance(GUIDANCE), STEPS)
    rollout = model.rollout(conditioning, geometry, rng, drawn, noise=noise)
    chosen = {
        "alt": list(range(0, geometry.num_frames, 2)),
        "all": list(range(geometry.num_frames)),
    }.get(kind["frames"]) or [int(kind["frames"].removeprefix("frame"))]
    video = backbone.decode(rollout.latents, geometry, chosen)

    theirs = golden["frames"]  # [B, 3, 1, H, W] for one frame, [n, 3, H, W] for several; RGB in [-1, 1]
    ours = (video * 2 - 1).movedim(1, 2) if theirs.ndim == 5 else (video * 2 - 1).flatten(0, 1)
    assert deviation(ours, theirs) < TOLERANCE
    (ours * golden["cotangent"]).sum().backward()

    gradients = {key.split(".", 2)[2]: value for key, value in golden.items() if key.startswith("grad.")}
    assert gradients
    for name, gradient in gradients.items():
        assert deviation(lora[name].grad, gradient) < TOLERANCE, name
    values = json.loads(companion(case, "values.json").read_text())
    norm = float(torch.stack([parameter.grad.norm() for parameter in lora.values()]).norm())
    assert norm > 0
    stored = values.get(case.stem.removeprefix("train_policy_"))
    if stored is not None:  # the norm over all layers, where it was written down
        assert norm == pytest.approx(stored["lora_grad_global_norm"], rel=TOLERANCE)


@pytest.mark.parametrize("case", found("schedule.safetensors"), ids=golden_id)
def test_schedule(case):
    golden = load_file(case)
    backbone = ModelScope(
        ModelScopeConfig(weights="random", architecture="tiny"),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    torch.testing.assert_close(
        backbone.schedule.alphas_cumprod.float(), golden["alphas_cumprod"], rtol=1e-5, atol=0
    )
    geometry = backbone.defaults.geometry
    for kind, sampler in SAMPLERS.items():
        plan = sampler.plan(backbone.schedule, 25, geometry)
        assert list(plan.timesteps) == golden[f"{kind}_timesteps_25"].tolist()


@pytest.mark.parametrize("case", found("unet_full_manifest.json"), ids=golden_id)
def test_manifest(case):
    published = {name: tuple(shape) for name, shape in json.loads(case.read_text()).items()}
    backbone = ModelScope(
        ModelScopeConfig(weights="random", architecture="full"),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    with torch.device("meta"):
        denoiser = backbone.build_denoiser()
    assert {name: tuple(value.shape) for name, value in denoiser.state_dict().items()} == published
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == 1_411_233_860


def test_list_order(tmp_path):
    """The order file of the tiny model, and the counts of the full one: 574 layers, 29,246,112 numbers."""
    case = found("lora_cloneofsimo_order.json")[0]
    order = json.loads(case.read_text())
    backbone = golden_backbone(case)
    shapes = architecture_shapes(backbone.architecture)
    assert [entry["module"] for entry in order] == list(shapes)
    adapter = ListFormat(shapes).read(official_lora(case, tmp_path))
    for entry in order:
        assert list(adapter.tensors[f"{entry['module']}.lora_A.weight"].shape) == entry["down"]
        assert list(adapter.tensors[f"{entry['module']}.lora_B.weight"].shape) == entry["up"]
    full = architecture_shapes(FULL)
    assert len(full) == 574
    count = 0
    for shape in full.values():
        rank = min(16, *shape[:2])
        count += rank * shape[0] + rank * shape[1] * torch.Size(shape[2:]).numel()
    assert count == 29_246_112
