"""Every family against diffusers: a tiny random pipeline, saved, run by its own call and by ours.

Nothing is downloaded. Both start from the same latents and the same prompts.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from vader_core.geometry import Geometry
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry

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

    def __str__(self) -> str:
        kind = self.scheduler.get("_class_name", "")
        rest = "-".join(f"{name}={value}" for name, value in self.scheduler.items() if name != "_class_name")
        return "-".join(filter(None, (self.backbone, self.model, kind, rest, *self.options)))


EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
CASES = [
    Case("wan", "tiny"),
    Case("wan", "tiny", {"flow_shift": 8.0}, steps=6),
    Case("wan", "tiny", {**EULER, "shift": 3.0}),
    Case("wan", "tiny-a14b", steps=6, options={"guidance_scale_low": 2.0}, call={"guidance_scale_2": 2.0}),
    Case("wan", "tiny-5b"),
    Case("ltx", "tiny"),
    Case("ltx", "tiny", {"use_dynamic_shifting": False, "shift_terminal": None}),
    Case("ltx", "tiny", options={"guidance_rescale": 0.7}, call={"guidance_rescale": 0.7}),
    Case(
        "ltx",
        "tiny-0.9.7",
        options={"guidance_rescale": 0.0, "decode_timestep": 0.05, "decode_noise_scale": 0.025},
        call={"decode_timestep": 0.05, "decode_noise_scale": 0.025},
    ),
    Case("cogvideox", "tiny"),
    Case("cogvideox", "tiny-2b", {"snr_shift_scale": 3.0}, steps=7),
    Case("cogvideox", "tiny-1.5"),
    Case("hunyuan_video", "tiny", scale=1.0),
    Case("hunyuan_video", "tiny", scale=1.0, options={"embedded_guidance": 2.0}, call={"guidance_scale": 2.0}),
    Case("hunyuan_video", "tiny", options={"embedded_guidance": 4.0}, call={"guidance_scale": 4.0}),
    Case("hunyuan_video15", "tiny"),
    Case("hunyuan_video15", "tiny", {"shift": 9.0}),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves a tiny pipeline once per model and scheduler."""
    held: dict[str, Path] = {}

    def save(backbone: str, model: str, scheduler: dict[str, Any]) -> Path:
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
    options = {"weights": str(path), **case.options}
    backbone = registry.get("backbone", case.backbone).make(options, device=torch.device("cpu"), dtype=dtype)
    backbone.load()
    return backbone, registry


def geometry_of(backbone) -> Geometry:
    times = backbone.compression[0]
    frames = 21 if backbone.name == "hunyuan_video" else 2 * times + 1
    return Geometry(32, 64, frames, 24.0)


def model_of(case: Case, backbone, registry, geometry: Geometry) -> Model:
    """Backbone, sampler and guidance, as a run puts them together."""
    defaults = backbone.defaults
    options = {name: value for name, value in defaults.sampler_options.items() if name != "sigmas"}
    sampler = registry.get("sampler", defaults.sampler).make(options, device="cpu", dtype=None)
    embedded = defaults.guidance == "embedded"
    guidance = Guidance(6.0 if embedded else case.scale, embedded=embedded)
    return Model(backbone, sampler, guidance, case.steps, geometry)


def start(backbone, geometry: Geometry):
    """Prompts, randomness and noise of both runs."""
    rng = Randomness(seed=3, samples=(0, 1))
    prompts = [Prompt(text, negative=NEGATIVE) for text in PROMPTS]
    return prompts, rng, backbone.initial_noise(2, geometry, rng)


@torch.no_grad()
def ours(case: Case, backbone, registry, geometry: Geometry):
    """The video, the noise it started from, and what it was made with."""
    prompts, rng, noise = start(backbone, geometry)
    model = model_of(case, backbone, registry, geometry)
    conditioning = model.condition(prompts, geometry, rng)
    rollout = model.rollout(conditioning, geometry, rng, noise=noise)
    return model.decode(rollout.latents, geometry, None, conditioning), noise, conditioning


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
    if case.backbone == "ltx":
        words |= {"latents": noise.flatten(2).transpose(1, 2), "frame_rate": geometry.fps}
        pipe = diffusers.LTXPipeline(**pipe.components)
        pipe.set_progress_bar_config(disable=True)
        drawn = conditioning.tensors.get("decoder_noise")
        if drawn is not None:
            import diffusers.pipelines.ltx.pipeline_ltx as module

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "randn_tensor", lambda *_, **__: drawn)
                return pipe(**{**words, **case.call}).frames
    if case.backbone == "cogvideox":
        words |= {"latents": noise.transpose(1, 2)}
    if case.backbone == "hunyuan_video":
        words |= {"guidance_scale": 6.0, "true_cfg_scale": case.scale}
    if case.backbone == "hunyuan_video15":
        words.pop("guidance_scale")
        pipe.vae.enable_slicing()
    return pipe(**{**words, **case.call}).frames


def read_lora(pipe, path: Path) -> None:
    raise NotImplementedError


def off(one, other) -> float:
    """The largest difference as a share of the contrast."""
    contrast = float(other.max() - other.min())
    assert contrast > 0.02, "the video shows nothing"
    return float((one.clamp(0, 1) - other).abs().max()) / contrast


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
