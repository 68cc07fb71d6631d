"""VideoCrafter2 against the numbers of the official code, float32 on the CPU.

Tolerances are those of the goldens' own fact sheet: float32 rounding measured against float64 is 2e-6 to 1e-5
on values of order one, so 1e-4 leaves room for another order of sums and for nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from goldens import golden_paths
from safetensors.torch import load_file
from torch import Tensor
from vader_videocrafter.architecture import (
    Architecture,
    AutoencoderArchitecture,
    TextArchitecture,
    UNetArchitecture,
)
from vader_videocrafter.autoencoder import FrameCodec, build_autoencoder
from vader_videocrafter.backbone import VideoCrafter
from vader_videocrafter.checkpoint import official_manifest, text_tensors
from vader_videocrafter.key_maps import official_autoencoder_name, text_names
from vader_videocrafter.lora_format import PREFIX, from_official, to_official
from vader_videocrafter.options import VideoCrafterOptions
from vader_videocrafter.sampler import VideoCrafterDDIM
from vader_videocrafter.schedule import videocrafter_schedule
from vader_videocrafter.text_encoder import build_text_model, encode_tokens, tokenize
from vader_videocrafter.unet import VideoUNet

from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_adapter, attach_lora
from vader_core.lora.formats import Adapter
from vader_core.method.gradient import From
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.randomness import Randomness

pytestmark = pytest.mark.golden
PLUGIN = "videocrafter"
TOLERANCE = 1e-4


def named(path: Path) -> str:
    return path.name


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def folders(pattern: str) -> list[Path]:
    return [path for path in golden_paths(PLUGIN, pattern) if path.is_dir()]


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    scale = max(1.0, theirs.abs().max().item())
    assert (ours - theirs).abs().max().item() <= tolerance * scale


def unet_from(folder: Path) -> VideoUNet:
    unet = VideoUNet(UNetArchitecture(**read_json(folder / "config.json")["constructor"]))
    unet.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    return unet.eval().requires_grad_(False)


def autoencoder_architecture(folder: Path) -> AutoencoderArchitecture:
    config = read_json(folder / "config.json")
    sizes = config["ddconfig"]
    return AutoencoderArchitecture(
        block_out_channels=tuple(sizes["ch"] * multiple for multiple in sizes["ch_mult"]),
        layers_per_block=sizes["num_res_blocks"],
        latent_channels=config["embed_dim"],
        scaling_factor=config["scale_factor"],
    )


def codec_from(folder: Path) -> FrameCodec:
    architecture = autoencoder_architecture(folder)
    module = build_autoencoder(architecture).eval().requires_grad_(False)
    official = load_file(folder / "weights.safetensors")
    levels = len(architecture.block_out_channels)
    ours = {
        name: official.pop(official_autoencoder_name(name, levels)).reshape(value.shape)
        for name, value in module.state_dict().items()
    }
    assert not official
    module.load_state_dict(ours, strict=True)
    return FrameCodec(module, device=torch.device("cpu"), slice_size=None, tiling=False)


KINDS = (
    "unet_*/io.safetensors",
    "vae_*/io.safetensors",
    "text_*/io.safetensors",
    "ddim_*/trace.safetensors",
    "vader_grad/config.json",
    "manifest_full.json",
    "lora_manifest_full.json",
)


@pytest.mark.parametrize("pattern", KINDS)
def test_goldens_are_there(pattern):
    assert golden_paths(PLUGIN, pattern), f"no golden matches {pattern}; set VADER_GOLDENS"


# -- the UNet ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=folders("unet_*"), ids=named)
def unet_folder(request) -> Path:
    return request.param


def test_unet_output_and_gradients(unet_folder):
    io, unet = load_file(unet_folder / "io.safetensors"), unet_from(unet_folder)
    latents, context = io["x"].requires_grad_(), io["context"].requires_grad_()
    output = unet(latents, io["t"], context, io["fps"])
    close(output, io["output"])
    (output * io["probe"]).sum().backward()
    close(latents.grad, io["grad_x"])
    close(context.grad, io["grad_context"])


def test_unet_with_the_fps_it_assumes(unet_folder):
    io, unet = load_file(unet_folder / "io.safetensors"), unet_from(unet_folder)
    with torch.no_grad():
        close(unet(io["x"], io["t"], io["context"]), io["output_fps16"])
        close(unet(io["x"], io["t"], io["context"], 16), io["output_fps16"])


def test_unet_between_its_layers(unet_folder):
    io, unet = load_file(unet_folder / "io.safetensors"), unet_from(unet_folder)
    seen: dict[str, Tensor] = {}

    def watch(name, module):
        module.register_forward_hook(lambda _module, _inputs, output: seen.__setitem__(name, output))

    for side in ("input_blocks", "output_blocks"):
        for index, block in enumerate(getattr(unet, side)):
            watch(f"{side}.{index}", block[-1])
    watch("middle_block", unet.middle_block[-1])
    watch("time_embed", unet.time_embed)
    watch("fps_embedding", unet.fps_embedding)
    watch("init_attn", unet.init_attn[0])
    with torch.no_grad():
        unet(io["x"], io["t"], io["context"], io["fps"])
    stored = {key.removeprefix("inter."): value for key, value in io.items() if key.startswith("inter.")}
    assert stored
    for name, theirs in stored.items():
        close(seen[name], theirs)


def test_recomputation_changes_no_number(unet_folder):
    io, unet = load_file(unet_folder / "io.safetensors"), unet_from(unet_folder)
    gradients = []
    for on in (False, True):
        unet.enable_gradient_checkpointing(on)
        latents = io["x"].clone().requires_grad_()
        (unet(latents, io["t"], io["context"], io["fps"]) * io["probe"]).sum().backward()
        gradients.append(latents.grad)
    assert torch.equal(*gradients)


# -- the autoencoder --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=folders("vae_*"), ids=named)
def vae_folder(request) -> Path:
    return request.param


def test_autoencoder_encodes(vae_folder):
    io, codec = load_file(vae_folder / "io.safetensors"), codec_from(vae_folder)
    scale = read_json(vae_folder / "config.json")["scale_factor"]
    with torch.no_grad():
        posterior = codec.autoencoder.encode(io["x"]).latent_dist
        close(torch.cat([posterior.mean, posterior.logvar], dim=1), io["moments"])
        close(codec.encode(io["x"]), io["mean"] * scale)
    close(posterior.std, io["std"])
    close(scale * (posterior.mean + posterior.std * io["eps"]), io["z_encoded_scaled"])


def test_autoencoder_decodes_frames_and_their_gradient(vae_folder):
    io, codec = load_file(vae_folder / "io.safetensors"), codec_from(vae_folder)
    latents = io["z"].requires_grad_()
    frames = [codec.decode(latents[:, :, index]) for index in range(latents.shape[2])]
    close(torch.stack(frames, dim=2), io["decoded"])
    for key, probe in io.items():
        if key.startswith("probe_frame"):
            frame = int(key.removeprefix("probe_frame"))
            (frames[frame] * probe[:, :, 0]).sum().backward()
    close(latents.grad, io["grad_z"])


def test_autoencoder_key_map(vae_folder):
    theirs = read_json(vae_folder / "diffusers_key_map.json")
    with torch.device("meta"):
        module = build_autoencoder(autoencoder_architecture(vae_folder))
    levels = len(autoencoder_architecture(vae_folder).block_out_channels)
    ours = {official_autoencoder_name(name, levels): name for name in module.state_dict()}
    assert ours == {official: entry["diffusers"] for official, entry in theirs.items()}


# -- the text tower ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=folders("text_*"), ids=named)
def text_folder(request) -> Path:
    return request.param


def text_architecture(folder: Path) -> TextArchitecture:
    config = read_json(folder / "config.json")
    return TextArchitecture(**config["text_cfg"], embed_dim=config["embed_dim"])


def test_text_tower(text_folder):
    io = load_file(text_folder / "io.safetensors")
    architecture = text_architecture(text_folder)
    model = build_text_model(architecture).eval()
    converted = text_tensors(load_file(text_folder / "weights.safetensors"), architecture.layers - 1)
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    model.load_state_dict({prefix + name: value for name, value in converted.items()}, strict=True)
    with torch.no_grad():
        close(encode_tokens(model, io["tokens"]), io["output_penultimate"], 1e-5)


def test_text_key_map(text_folder):
    theirs = read_json(text_folder / "transformers_key_map.json")
    for official, names in theirs.items():
        expected = tuple(name.removeprefix("text_model.") for name in names if name != "(unused)")
        assert text_names(official) == expected


def test_tokens(text_folder):
    stored = read_json(text_folder / "tokens.json")
    tokens = tokenize(stored["prompts"], stored["context_length"])
    assert tokens.tolist() == stored["token_ids"]


# -- the sampler ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=folders("ddim_*"), ids=named)
def ddim_folder(request) -> Path:
    return request.param


def test_schedule_arrays(ddim_folder):
    stored = read_json(ddim_folder / "ddim.json")
    plan = VideoCrafterDDIM(stored["eta"]).plan(videocrafter_schedule(), stored["S"], Geometry(64, 64, 1, 24))
    assert list(plan.timesteps[::-1]) == [float(t) for t in stored["timesteps_ascending"]]
    tables = {name: torch.tensor(values[::-1], dtype=torch.float64) for name, values in plan.tables.items()}
    ours = {
        "alphas": tables["signal"] ** 2,
        "sqrt_one_minus_alphas": tables["noise"],
        "sigmas": tables["sigma"],
        "scale": tables["scale"],
    }
    theirs = {
        key: torch.tensor(stored[key], dtype=torch.float64) for key in (*ours, "alphas_prev", "scale_prev")
    }
    for name, values in ours.items():
        assert (values - theirs[name]).abs().max() < 1e-6
    next_signal = theirs["alphas_prev"].sqrt() * theirs["scale_prev"]
    assert (tables["next_signal"] - next_signal).abs().max() < 1e-6
    next_noise = (1 - theirs["alphas_prev"] - theirs["sigmas"] ** 2).clamp(min=0).sqrt()
    assert (tables["next_noise"] - next_noise).abs().max() < 1e-6


class StoredNoise(Randomness):
    """Hands out the official run's noise in place of drawn numbers."""

    def normal(self, purpose, shape, *, device="cpu", dtype=torch.float32):
        return self.noise[int(purpose.removeprefix("step "))].to(dtype)


def stored_noise(noise: Tensor) -> StoredNoise:
    rng = StoredNoise(seed=0, samples=tuple(range(noise.shape[1])))
    object.__setattr__(rng, "noise", noise)
    return rng


class Watched(VideoCrafterDDIM):
    """The sampler, keeping every state and clean estimate it makes."""

    def __init__(self, eta: float) -> None:
        super().__init__(eta)
        self.states: list[Tensor] = []
        self.estimates: list[Tensor] = []

    def step(self, plan, i, state, prediction, noise):
        self.estimates.append(self.clean(plan, i, state, prediction).detach())
        following = super().step(plan, i, state, prediction, noise)
        self.states.append(following.latents.detach())
        return following


def backbone_from(unet_folder: Path, vae_folder: Path | None = None) -> VideoCrafter:
    """The plugin's backbone with a golden UNet and, where given, a golden autoencoder in it."""
    unet = unet_from(unet_folder)
    text = TextArchitecture(
        width=unet.architecture.context_dim, heads=2, layers=2, embed_dim=32, vocab_size=64
    )
    vae = AutoencoderArchitecture(block_out_channels=(32, 32), layers_per_block=1)
    architecture = Architecture(
        unet=unet.architecture,
        autoencoder=autoencoder_architecture(vae_folder) if vae_folder else vae,
        text=text,
    )
    options = VideoCrafterOptions(weights="random", architecture=architecture.model_dump())
    backbone = VideoCrafter(options, device=torch.device("cpu"), dtype=torch.float32)
    backbone.load()
    backbone.denoiser.load_state_dict(unet.state_dict(), strict=True)
    if vae_folder:
        backbone.autoencoder.load_state_dict(codec_from(vae_folder).autoencoder.state_dict(), strict=True)
    return backbone


def conditioning_from(stored: dict[str, Tensor], batch: int) -> Conditioning:
    context = stored["context_uncond"]
    if context.ndim == 2:
        context = context.expand(batch, *context.shape)
    fps = stored["fps"].float().reshape(-1).expand(batch)
    return Conditioning({"context": stored["context_cond"], "fps": fps}, {"context": context, "fps": fps})


def geometry_of(backbone: VideoCrafter, noise: Tensor) -> Geometry:
    factor = backbone.architecture.autoencoder.downsampling
    return Geometry(noise.shape[-2] * factor, noise.shape[-1] * factor, noise.shape[2], 24)


@pytest.mark.slow_cases("*split")
@pytest.mark.parametrize("split", [False, True], ids=["one-batch", "split"])
def test_whole_sampling_trace(ddim_folder, split):
    stored, settings = load_file(ddim_folder / "trace.safetensors"), read_json(ddim_folder / "ddim.json")
    trace = settings["trace"]
    backbone = backbone_from(golden_paths(PLUGIN, trace.get("unet", "unet_a"))[0])
    noise = stored["x_T"]
    sampler = Watched(settings["eta"])
    model = Model(backbone, sampler, Guidance(trace["cfg_scale"], split=split), settings["S"])
    conditioning, rng = conditioning_from(stored, len(noise)), stored_noise(stored["noise"])
    with torch.no_grad():
        model.rollout(conditioning, geometry_of(backbone, noise), rng, noise=noise)
    largest = stored["x_after_step"].abs().max().item()
    assert len(sampler.states) == len(stored["x_after_step"])
    for state, theirs in zip(sampler.states, stored["x_after_step"], strict=True):
        assert (state - theirs).abs().max().item() <= TOLERANCE * largest
    largest = stored["pred_x0"].abs().max().item()
    for estimate, theirs in zip(sampler.estimates, stored["pred_x0"], strict=True):
        assert (estimate - theirs).abs().max().item() <= TOLERANCE * largest


# -- the gradient of a whole VADER step -------------------------------------------------------------


def vader_cases() -> list[tuple[Path, str]]:
    return [
        (folder, case)
        for folder in folders("vader_grad*")
        for case in read_json(folder / "config.json")["cases"]
    ]


@pytest.mark.slow_cases("*recomputed")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("folder", "case"), vader_cases(), ids=lambda value: getattr(value, "name", value))
def test_vader_gradient(folder, case, checkpointing):
    config = read_json(folder / "config.json")
    settings = config["cases"][case]
    stored, inputs = load_file(folder / f"{case}.safetensors"), load_file(folder / "inputs.safetensors")
    sources = [golden_paths(PLUGIN, config.get(kind, f"{kind}_a"))[0] for kind in ("unet", "vae")]
    backbone = backbone_from(*sources)
    adapter = from_official(load_file(folder / "lora_weights.safetensors"))
    assert adapter.rank == config["lora"]["r"]
    assert adapter.alpha == config["lora"]["lora_alpha"]
    attach_adapter(backbone.denoiser, adapter, what="golden LoRA")
    noise = stored["x_T"]
    geometry = geometry_of(backbone, noise)
    steps = len(stored["noise"])
    sampler = Watched(settings["eta"])
    model = Model(backbone, sampler, Guidance(settings["cfg_scale"]), steps)
    drawn = From(settings["first_differentiable_step"]).draw(steps, Randomness(0))
    rng = stored_noise(stored["noise"])
    with backbone.checkpointing(checkpointing):
        conditioning = conditioning_from(inputs, len(noise))
        rollout = model.rollout(conditioning, geometry, rng, drawn, noise=noise)
        video = backbone.decode(rollout.latents, geometry, [settings["decode_frame"]])
    frame = video[:, 0] * 2 - 1  # the official code hands the decoder's own range to the reward
    loss = (frame * inputs["probe"]).mean()
    loss.backward()
    largest = stored["x_after_step"].abs().max().item()
    for state, theirs in zip(sampler.states, stored["x_after_step"], strict=True):
        assert (state - theirs).abs().max().item() <= TOLERANCE * largest
    close(frame, stored["decoded_frame"])
    assert loss.item() == pytest.approx(stored["loss"].item(), rel=1e-4)
    parameters = adapter_parameters(backbone.denoiser)
    gradients = {key.removeprefix("grad."): value for key, value in stored.items() if key.startswith("grad.")}
    assert {PREFIX + name for name in parameters} == set(gradients)
    for name, parameter in parameters.items():
        theirs = gradients[PREFIX + name]
        assert theirs.norm() > 0
        assert ((parameter.grad - theirs).norm() / theirs.norm()).item() <= 1e-3, name


# -- the full-size model, counted without memory ----------------------------------------------------


@pytest.mark.parametrize("path", golden_paths(PLUGIN, "manifest_full.json"), ids=named)
def test_full_checkpoint_manifest(path):
    theirs = read_json(path)
    assert len(theirs) == 2039
    assert {entry["dtype"] for entry in theirs.values()} == {"float32"}
    assert official_manifest(Architecture()) == {key: tuple(entry["shape"]) for key, entry in theirs.items()}
    with torch.device("meta"):
        parts = [
            VideoUNet(),
            build_autoencoder(AutoencoderArchitecture()),
            build_text_model(TextArchitecture()),
        ]
    assert {value.dtype for part in parts for value in part.state_dict().values()} == {torch.float32}
    assert sum(value.numel() for value in parts[0].parameters()) == 1_413_284_420


@pytest.mark.parametrize("path", golden_paths(PLUGIN, "lora_manifest_full.json"), ids=named)
def test_full_lora_manifest(path):
    theirs = read_json(path)
    backbone = VideoCrafter(
        VideoCrafterOptions(weights="random"), device=torch.device("cpu"), dtype=torch.float32
    )
    with torch.device("meta"):
        unet = backbone.build_denoiser()
        attached = attach_lora(unet, LoraSettings(rank=16, alpha=8, targets=backbone.lora_targets))
    assert len(attached.modules) == 198
    assert attached.parameters == 5_015_552
    ours = to_official(Adapter(adapter_parameters(unet), 16, 8.0))
    assert {key: {"shape": list(value.shape), "dtype": "float32"} for key, value in ours.items()} == theirs
