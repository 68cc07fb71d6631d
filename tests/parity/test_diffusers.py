"""Every family against diffusers: a tiny random pipeline, saved, run by its own call and by ours.

Nothing is downloaded. Both start from the same latents and the same prompts.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from vader_core.geometry import Geometry
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.lora.formats import Adapter
from vader_core.method.gradient import Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.run.adapters import lora_format

torch.set_num_threads(1)
_WHERE = Path(__file__).parents[1] / "diffusers" / "tiny_pipelines.py"
_SPEC = importlib.util.spec_from_file_location("tiny_pipelines", _WHERE)
tiny_pipelines = sys.modules["tiny_pipelines"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tiny_pipelines)

PROMPTS = ("a red boat on a river", 'two dogs run over "snow"')
NEGATIVE = "grey, blurred"
#: Largest difference of a frame's pixel, as a share of the video's contrast.
WITHIN = 1e-4


@dataclass(frozen=True)
class Case:
    """A family under one of its schedulers."""

    backbone: str
    model: str
    scheduler: dict[str, Any] = field(default_factory=dict)
    steps: int = 5
    scale: float = 3.0
    options: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    #: Text tokens; ``None`` is the pipeline's own number, which is slow.
    length: int | None = 16

    @property
    def text_tokens(self) -> int | None:
        """Where it can be chosen: Wan's picture models and CogVideoX have theirs written into them."""
        fixed = self.backbone in ("wan_i2v", "cogvideox", "diffusers")
        return None if fixed else self.length

    def __str__(self) -> str:
        kind = self.scheduler.get("_class_name", "")
        rest = "-".join(f"{name}={value}" for name, value in self.scheduler.items() if name != "_class_name")
        return "-".join(filter(None, (self.backbone, self.model, kind, rest, *self.options)))


EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
CASES = [
    Case("wan", "tiny", length=None),
    Case("wan", "tiny", {"flow_shift": 8.0}, steps=6),
    Case("wan", "tiny", {**EULER, "shift": 3.0}),
    Case("wan", "tiny-a14b", steps=6, options={"guidance_scale_low": 2.0}, call={"guidance_scale_2": 2.0}),
    Case("wan", "tiny-5b"),
    Case("wan_i2v", "tiny"),
    Case("wan_i2v", "tiny-a14b", {"flow_shift": 5.0}, call={"guidance_scale_2": 3.0}),
    Case("wan_i2v", "tiny-5b"),
    Case("ltx", "tiny", length=None),
    Case("ltx", "tiny", {"use_dynamic_shifting": False, "shift_terminal": None}),
    Case("ltx", "tiny", options={"guidance_rescale": 0.7}, call={"guidance_rescale": 0.7}),
    Case(
        "ltx",
        "tiny-0.9.7",
        options={"guidance_rescale": 0.0, "decode_timestep": 0.05, "decode_noise_scale": 0.025},
        call={"decode_timestep": 0.05, "decode_noise_scale": 0.025},
    ),
    Case(
        "ltx",
        "tiny-0.9.7",
        steps=6,
        length=None,
        options={"guidance_rescale": 0.5},
        call={"guidance_rescale": 0.5, "decode_timestep": 0.05, "decode_noise_scale": 0.025},
    ),
    Case("ltx2", "tiny", length=None),
    Case("ltx2", "tiny-2.3"),
    Case(
        "ltx2",
        "tiny-2.3",
        {"use_dynamic_shifting": False, "shift_terminal": None},
        options={"perturbed_scale": 0.5, "sound_guidance_rescale": 0.2, "modality_scale": 1.0},
        call={"stg_scale": 0.5, "audio_guidance_rescale": 0.2, "modality_scale": 1.0},
    ),
    Case("cogvideox", "tiny"),
    Case("cogvideox", "tiny-2b", {"snr_shift_scale": 3.0}, steps=7),
    Case("cogvideox", "tiny-1.5"),
    Case("hunyuan_video", "tiny", scale=1.0, length=None),
    Case(
        "hunyuan_video", "tiny", scale=1.0, options={"embedded_guidance": 2.0}, call={"guidance_scale": 2.0}
    ),
    Case("hunyuan_video", "tiny", options={"embedded_guidance": 4.0}, call={"guidance_scale": 4.0}),
    Case("hunyuan_video15", "tiny", steps=2, length=None),
    Case("hunyuan_video15", "tiny", {"shift": 9.0}, steps=3),
    Case("diffusers", "wan/tiny"),
    Case("diffusers", "wan/tiny-5b"),
    Case("diffusers", "ltx/tiny"),
    Case("diffusers", "cogvideox/tiny"),
    Case("diffusers", "hunyuan_video/tiny", scale=1.0),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves a tiny pipeline once per model and scheduler."""
    held: dict[str, Path] = {}

    def save(backbone: str, model: str, scheduler: dict[str, Any]) -> Path:
        family, _, rest = model.partition("/")
        backbone, model = (family, rest) if rest else (backbone, model)
        key = f"{backbone} {model} {scheduler}"
        if key not in held:
            held[key] = tiny_pipelines.build(
                backbone, model, tmp_path_factory.mktemp("pipeline"), **scheduler
            )
        return held[key]

    return save


def load(case: Case, path: Path, dtype=torch.float32):
    """Our backbone over the saved pipeline, and the registry."""
    registry = load_registry()
    options = {"weights": str(path), "max_sequence_length": case.text_tokens, **case.options}
    backbone = registry.get("backbone", case.backbone).make(options, device=torch.device("cpu"), dtype=dtype)
    backbone.load()
    return backbone, registry


def geometry_of(backbone) -> Geometry:
    times = backbone.compression[0]
    frames = 17 if backbone.pipelines[0] == "HunyuanVideoPipeline" else 2 * times + 1
    return Geometry(32, 64, frames, 24.0)


def model_of(case: Case, backbone, registry, geometry: Geometry) -> Model:
    """Backbone, sampler and guidance, as a run puts them together."""
    defaults = backbone.defaults
    options = {name: value for name, value in defaults.sampler_options.items() if name != "sigmas"}
    sampler = registry.get("sampler", defaults.sampler).make(options, device="cpu", dtype=None)
    embedded = defaults.guidance == "embedded"
    guidance = Guidance(6.0 if embedded else case.scale, embedded=embedded)  # the pipeline's default
    return Model(backbone, sampler, guidance, case.steps, geometry)


def start(backbone, geometry: Geometry):
    """Prompts, randomness and noise of both runs."""
    rng = Randomness(seed=3, samples=(0, 1))
    prompts = [Prompt(text, negative=NEGATIVE) for text in PROMPTS]
    return prompts, rng, backbone.initial_noise(2, geometry, rng)


def picture_of(backbone, geometry: Geometry):
    """A first frame for two videos, where one is needed: whole 8-bit values, so that a file could hold it."""
    if not backbone.needs_image:
        return None
    drawn = Randomness(seed=8).normal("picture", (3, geometry.height, geometry.width)).sigmoid()
    return ((drawn * 255).round() / 255).expand(2, -1, -1, -1)


@torch.no_grad()
def ours(case: Case, backbone, registry, geometry: Geometry):
    """The video, the noise it started from, and what it was made with."""
    prompts, rng, noise = start(backbone, geometry)
    model = model_of(case, backbone, registry, geometry)
    conditioning = model.condition(prompts, geometry, rng, image=picture_of(backbone, geometry))
    rollout = model.rollout(conditioning, geometry, rng, noise=noise)
    return model.decode(rollout.latents, geometry, None, conditioning), noise, conditioning


def picture_words(pipe, conditioning, picture):
    """The first frame as the pipeline wants it. CLIP sees the shorter side at its own size already."""
    words = {"image": picture[:1]}
    if "seen" in conditioning.tensors:
        given = pipe.image_processor(images=[(picture[0] * 255).byte()], return_tensors="pt", do_resize=False)
        out = pipe.image_encoder(**given, output_hidden_states=True).hidden_states[-2].detach()
        pipe.encode_image = lambda *_: out
    return words


def theirs(case: Case, path: Path, geometry: Geometry, noise, conditioning, lora: Path | None = None):
    """The pipeline's own call, from the same noise."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        read_lora(pipe, lora)
    words = {
        "prompt": list(PROMPTS),
        "negative_prompt": [NEGATIVE] * 2,
        "height": geometry.height,
        "width": geometry.width,
        "num_frames": geometry.num_frames,
        "num_inference_steps": case.steps,
        "guidance_scale": case.scale,
        "output_type": "pt",
        "latents": noise,
    }
    if case.text_tokens is not None:
        words["max_sequence_length"] = case.text_tokens
    if case.backbone == "wan_i2v":
        words |= picture_words(pipe, conditioning, picture_of(SimpleNamespace(needs_image=True), geometry))
    family = case.model.partition("/")[0] if case.backbone == "diffusers" else case.backbone
    if family == "ltx":
        words |= {"latents": noise.flatten(2).transpose(1, 2), "frame_rate": geometry.fps}
    if isinstance(
        pipe, diffusers.LTXConditionPipeline
    ):  # it draws its own noise, and the decoder's behind it
        import diffusers.pipelines.ltx.pipeline_ltx_condition as module

        drawn = iter((noise, conditioning.tensors.get("decoder_noise")))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "randn_tensor", lambda *_, **__: next(drawn))
            return pipe(**{**words, "latents": None, **case.call}).frames
    if family == "ltx2":
        tokens, count = noise[:, :, 0, 0].transpose(1, 2), 3 * (geometry.height // 8) * (geometry.width // 8)
        coder = pipe.audio_vae  # the pipeline takes sound as its autoencoder makes it
        sound = tokens[:, count:] * coder.latents_std + coder.latents_mean
        words |= {"latents": tokens[:, :count], "audio_latents": sound, "frame_rate": geometry.fps}
        words |= {"spatio_temporal_guidance_blocks": [1]}
    if family == "cogvideox":
        words |= {"latents": noise.transpose(1, 2)}
    if family == "hunyuan_video":
        words |= {"guidance_scale": 6.0, "true_cfg_scale": case.scale}
    if case.backbone == "hunyuan_video15":
        words.pop("guidance_scale")
        pipe.tokenizer_max_length = words.pop("max_sequence_length", pipe.tokenizer_max_length)
        pipe.vae.enable_slicing()
    return pipe(**{**words, **case.call}).frames


def read_lora(pipe, path: Path) -> None:
    """As diffusers' users read a LoRA: the second expert's in a second call, 1.5's into the transformer."""
    if not hasattr(pipe, "load_lora_weights"):
        pipe.transformer.load_lora_adapter(str(path), prefix="transformer")
        return
    if path.is_file():
        pipe.load_lora_weights(str(path))
    second = path.with_stem(path.stem + "_2")
    if second.is_file():
        pipe.load_lora_weights(str(second), load_into_transformer_2=True)


def off(one, other) -> float:
    """The largest difference as a share of the contrast."""
    contrast = float(other.max() - other.min())
    assert contrast > 0.02, "the video shows nothing"
    return float((one.clamp(0, 1) - other).abs().max()) / contrast


@pytest.mark.quick_cases(
    "wan-tiny",
    "wan-tiny-a14b-*",
    "wan_i2v-tiny",
    "ltx-tiny",
    "ltx2-tiny-2.3",
    "cogvideox-tiny",
    "hunyuan_video-tiny",
    "hunyuan_video15-tiny-shift=9.0",
    "diffusers-ltx/tiny",
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_video_is_diffusers(case, saved):
    path = saved(case.backbone, case.model, case.scheduler)
    backbone, registry = load(case, path)
    geometry = geometry_of(backbone)
    video, noise, conditioning = ours(case, backbone, registry, geometry)
    wanted = theirs(case, path, geometry, noise, conditioning)
    difference = off(video, wanted)
    print(f"{case}: {difference:.1e}")
    assert difference <= WITHIN


# -- pictures ------------------------------------------------------------------------------------------------


def picture_file(place: Path, seed: int) -> Path:
    """Noise of a shape that is neither the video's nor CLIP's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place)
    return place


@pytest.mark.slow_cases("first and last")
@pytest.mark.parametrize(
    ("model", "network", "ends"),
    [("tiny", None, False), ("tiny", {"pos_embed_seq_len": 514}, True), ("tiny-a14b", None, True)],
    ids=["first", "first and last, CLIP", "first and last"],
)
def test_picture_files_are_seen_as_by_diffusers(model, network, ends, tmp_path):
    """Squeezed for the video, and cut as CLIP's own processor does; a last picture too."""
    path = tiny_pipelines.build("wan_i2v", model, tmp_path / "pipeline", network=network)
    case = Case("wan_i2v", model, steps=3, call={"guidance_scale_2": 3.0} if model == "tiny-a14b" else {})
    backbone, registry = load(case, path)
    geometry = geometry_of(backbone)
    files = [picture_file(tmp_path / f"{number}.png", number) for number in (1, 2)]
    told = {"last_image": str(files[1])} if ends else {}
    prompts, rng, noise = start(backbone, geometry)
    prompts = [replace(prompt, image=files[0], metadata=told) for prompt in prompts]
    with torch.no_grad():
        made = model_of(case, backbone, registry, geometry)
        conditioning = made.condition(prompts, geometry, rng)
        rollout = made.rollout(conditioning, geometry, rng, noise=noise)
        video = made.decode(rollout.latents, geometry, None, conditioning)
    pipe = diffusers.WanImageToVideoPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    opened = [Image.open(file).convert("RGB") for file in files]
    wanted = pipe(
        image=opened[0],
        last_image=opened[1] if ends else None,
        prompt=list(PROMPTS),
        negative_prompt=[NEGATIVE] * 2,
        height=geometry.height,
        width=geometry.width,
        num_frames=geometry.num_frames,
        num_inference_steps=case.steps,
        guidance_scale=case.scale,
        latents=noise,
        output_type="pt",
        **case.call,
    ).frames
    assert off(video, wanted) <= WITHIN


# -- LoRA ----------------------------------------------------------------------------------------------------

LORAS = [
    Case("wan", "tiny"),
    Case(
        "wan",
        "tiny-a14b",
        {"flow_shift": 5.0},
        steps=4,
        options={"expert": "both"},
        call={"guidance_scale_2": 2.0},
    ),
    Case("ltx", "tiny"),
    Case("ltx2", "tiny-2.3"),
    Case("cogvideox", "tiny"),
    Case("hunyuan_video", "tiny", scale=1.0, steps=3),
    Case("hunyuan_video15", "tiny", steps=2),
]


def with_lora(backbone, rank=3, alpha=5.0):
    """A LoRA with neither half at zero, in every module that the backbone names."""
    attach_lora(backbone.denoiser, LoraSettings(rank=rank, alpha=alpha, targets=backbone.lora_targets))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter_parameters(backbone.denoiser).values():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.6 * drawn / parameter[0].numel() ** 0.5)


@pytest.mark.quick_cases("wan-*", "ltx-*")
@pytest.mark.parametrize("case", LORAS, ids=str)
def test_lora_written_by_us_is_read_by_diffusers(case, saved, tmp_path):
    """Alpha is not the rank, so a scale that is left out is seen; so is a LoRA that changes nothing."""
    path = saved(case.backbone, case.model, case.scheduler)
    backbone, registry = load(case, path)
    geometry = geometry_of(backbone)
    plain, _, _ = ours(case, backbone, registry, geometry)
    with_lora(backbone)
    video, noise, conditioning = ours(case, backbone, registry, geometry)
    tensors = {name: value.detach() for name, value in adapter_parameters(backbone.denoiser).items()}
    adapter, target = Adapter(tensors, 3, 5.0), tmp_path / "lora.safetensors"
    lora_format("diffusers", registry).write(adapter, target)
    assert off(plain, video.clamp(0, 1)) > 100 * WITHIN
    wanted = theirs(case, path, geometry, noise, conditioning, lora=target)
    difference = off(video, wanted)
    print(f"LoRA {case}: {difference:.1e}")
    assert difference <= WITHIN
    first, *_ = lora_format("diffusers", registry).paths(adapter, target)
    again = lora_format("diffusers", registry).read(first)
    assert again.tensors.keys() == tensors.keys()


# -- precision -----------------------------------------------------------------------------------------------


@pytest.mark.slow_cases("hunyuan_video15")
@pytest.mark.parametrize("backbone", ["wan", "ltx", "cogvideox", "hunyuan_video", "hunyuan_video15"])
def test_half_precision_is_the_pipelines_own(backbone, saved):
    """A run's autocast changes no number: the pipeline runs its half weights without."""
    case = Case(backbone, "tiny", scale=1.0)
    made, registry = load(case, saved(backbone, "tiny", {}), torch.bfloat16)
    geometry = geometry_of(made)
    prompts, rng, noise = start(made, geometry)
    conditioning = (
        model_of(case, made, registry, geometry).condition(prompts, geometry, rng).conditional_branch
    )
    told = torch.full((2,), 500.0)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = made.predict(noise, told, conditioning).value
        wanted = made.call(made.denoiser, noise.bfloat16(), told, conditioning)
    assert torch.equal(found, wanted.float())


# -- gradients -----------------------------------------------------------------------------------------------

GRADIENTS = [
    Case("wan", "tiny", steps=4),
    Case("wan", "tiny-a14b", {"flow_shift": 5.0}, 4, options={"guidance_scale_low": 2.0}),
    Case("ltx", "tiny", steps=3),
    Case("cogvideox", "tiny", steps=3),
    Case("hunyuan_video", "tiny", scale=1.0, steps=3),
]


def velocity(case: Case, pipe, geometry: Geometry, latents, timestep, text, scale: float):
    """The guided prediction, as a reader of the pipeline's source would call it, branch after branch."""
    network, told = pipe.transformer, timestep.expand(len(latents))
    if case.model == "tiny-a14b" and timestep < 875:
        network, scale = pipe.transformer_2, 2.0
    found = []
    for branch in text:
        if case.backbone == "wan":
            found.append(network(latents, told, branch["text"]).sample)
        elif case.backbone == "ltx":
            packed = pipe._pack_latents(latents)
            sizes = dict(zip(("num_frames", "height", "width"), latents.shape[2:], strict=True))
            ratios = (pipe.vae.temporal_compression_ratio / geometry.fps,)
            ratios += (pipe.vae.spatial_compression_ratio,) * 2
            out = network(
                packed, branch["text"], told, branch["mask"], **sizes, rope_interpolation_scale=ratios
            ).sample
            found.append(pipe._unpack_latents(out, *latents.shape[2:]))
        elif case.backbone == "cogvideox":
            turns = pipe._prepare_rotary_positional_embeddings(
                geometry.height, geometry.width, latents.shape[2], latents.device
            )
            given = latents.transpose(1, 2)
            out = network(given, branch["text"], told, image_rotary_emb=turns).sample
            found.append(out.transpose(1, 2))
        else:
            guidance = torch.full((len(latents),), 6000.0, dtype=latents.dtype)
            text_parts = (branch["text"], branch["mask"].to(latents.dtype), branch["pooled"])
            found.append(network(latents, told, *text_parts, guidance=guidance).sample)
    return found[0] if scale == 1.0 else found[1] + scale * (found[0] - found[1])


def by_hand(case: Case, pipe, geometry: Geometry, noise, text, first: int, plan):
    """Clean latents: the last steps differentiated, every other without a graph.

    Euler steps take the plan's own times, which `tests/core/test_flow_samplers.py` holds against diffusers'.
    """
    scheduler, latents = pipe.scheduler, noise
    if case.backbone == "cogvideox":
        scheduler.set_timesteps(case.steps)
        alphas, stride = scheduler.alphas_cumprod.double(), 1000 // case.steps
        for i, t in enumerate(scheduler.timesteps):
            with torch.set_grad_enabled(i >= first):
                v = velocity(case, pipe, geometry, latents, t.double(), text, case.scale)
                a, b = alphas[t], alphas[t - stride] if t >= stride else torch.tensor(1.0).double()
                clean = a.sqrt() * latents - (1 - a).sqrt() * v
                latents = b.sqrt() * clean + (1 - b).sqrt() * (a.sqrt() * v + (1 - a).sqrt() * latents)
        return latents
    if case.backbone == "wan":
        scheduler.set_timesteps(case.steps)
        scheduler.sigmas = scheduler.sigmas.double()
        for i, t in enumerate(scheduler.timesteps):
            with torch.set_grad_enabled(i >= first):
                v = velocity(case, pipe, geometry, latents, t.double(), text, case.scale)
                latents = scheduler.step(v, t, latents).prev_sample
        return latents
    levels = plan.tables["tau"]
    for i, t in enumerate(plan.timesteps):
        with torch.set_grad_enabled(i >= first):
            told = torch.tensor(t, dtype=torch.float64)
            v = velocity(case, pipe, geometry, latents, told, text, case.scale)
            latents = latents + (levels[i + 1] - levels[i]) * v
    return latents


def decoded_by_hand(case: Case, pipe, latents):
    """The whole video in [0, 1]."""
    config = pipe.vae.config
    if case.backbone == "wan":
        mean, std = (
            torch.tensor(value, dtype=torch.float64).view(1, -1, 1, 1, 1)
            for value in (config.latents_mean, config.latents_std)
        )
        latents = latents * std + mean
        # the autoencoder's own loop, without the clamp at its end
        pipe.vae.clear_cache()
        given, frames = pipe.vae.post_quant_conv(latents), []
        for i in range(latents.shape[2]):
            pipe.vae._conv_idx = [0]
            frames.append(
                pipe.vae.decoder(
                    given[:, :, i : i + 1],
                    feat_cache=pipe.vae._feat_map,
                    feat_idx=pipe.vae._conv_idx,
                    first_chunk=i == 0,
                )
            )
        return (torch.cat(frames, dim=2) / 2 + 0.5).transpose(1, 2)
    elif case.backbone == "ltx":
        mean, std = pipe.vae.latents_mean.view(1, -1, 1, 1, 1), pipe.vae.latents_std.view(1, -1, 1, 1, 1)
        latents = latents * std + mean
    else:
        latents = latents / config.scaling_factor
    return (pipe.vae.decode(latents).sample / 2 + 0.5).transpose(1, 2)


@pytest.mark.quick_cases("wan-*")
@pytest.mark.parametrize(
    ("case", "recompute"),
    [(GRADIENTS[0], False), *((case, True) for case in GRADIENTS)],
    ids=lambda value: ("kept", "recomputed")[value] if isinstance(value, bool) else str(value),
)
def test_gradient_is_a_loop_by_hand(case, recompute, saved, monkeypatch):
    """In float64, of two frames and through two steps, into every matrix of the LoRA."""
    # Wan's modules round to float32 inside; here that would hide everything below 1e-5
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    path = saved(case.backbone, case.model, case.scheduler)
    backbone, registry = load(case, path, torch.float64)
    geometry, frames = geometry_of(backbone), [4, 1]
    with_lora(backbone)
    prompts, rng, noise = start(backbone, geometry)
    model = model_of(case, backbone, registry, geometry)
    conditioning = model.condition(prompts, geometry, rng)
    parameters = adapter_parameters(backbone.denoiser)
    first = case.steps - 2
    drawn = Drawn(frozenset({first, first + 1}), None)
    with backbone.checkpointing(recompute):
        rollout = model.rollout(conditioning, geometry, rng, drawn, noise=noise)
        video = model.decode(rollout.latents, geometry, frames, conditioning)
        (video * torch.linspace(0, 1, video.numel(), dtype=video.dtype).view_as(video)).sum().backward()
    found = {name: value.grad.clone() for name, value in parameters.items()}
    for value in parameters.values():
        value.grad = None
    branches = (conditioning.conditional_branch, conditioning.unconditional_branch)
    text = [branch.tensors for branch in branches]
    latents = by_hand(case, backbone.pipe, geometry, noise, text, first, model.plan(geometry))
    wanted = decoded_by_hand(case, backbone.pipe, latents)[:, frames]
    (wanted * torch.linspace(0, 1, wanted.numel(), dtype=wanted.dtype).view_as(wanted)).sum().backward()
    largest = max(float(value.grad.abs().max()) for value in parameters.values())
    worst = max(float((found[name] - value.grad).abs().max()) for name, value in parameters.items())
    print(f"gradient {case}: {worst / largest:.1e}")
    assert largest > 0
    assert worst <= 1e-8 * largest
