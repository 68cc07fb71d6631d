"""Registers diffusers' pipelines. Imports nothing heavy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vader_core.hookspecs import Register, RegisterLoraFormat, hookimpl
from vader_core.weights import WeightFile
from vader_diffusers.options import (
    HunyuanVideoOptions,
    LTX2Options,
    LTXOptions,
    PipelineOptions,
    TracedOptions,
    WanOptions,
)
from vader_diffusers.pipeline_source import INDEX, components
from vader_diffusers.published_models import DEFAULT, published

_BACKBONES: dict[str, tuple[str, type[PipelineOptions], str]] = {
    "wan": ("wan:Wan", WanOptions, "Wan 2.1 and 2.2, text to video: 1.3B, 14B, A14B, 5B"),
    "wan_i2v": (
        "wan_image:WanImage",
        WanOptions,
        "Wan 2.1 14B, 2.2 A14B and 5B, from a first frame",
    ),
    "ltx": ("ltx:LTX", LTXOptions, "LTX-Video 2B and 13B, text to video"),
    "ltx2": ("ltx2:LTX2", LTX2Options, "LTX-2 and 2.3, picture and sound from text"),
    "cogvideox": ("cogvideox:CogVideoX", PipelineOptions, "CogVideoX 2B, 5B and 1.5, text to video"),
    "hunyuan_video": ("hunyuan_video:HunyuanVideo", HunyuanVideoOptions, "HunyuanVideo, text to video"),
    "hunyuan_video15": (
        "hunyuan_video15:HunyuanVideo15",
        PipelineOptions,
        "HunyuanVideo 1.5, text to video at 480p and 720p",
    ),
    "diffusers": ("traced:Traced", TracedOptions, "any other text-to-video pipeline, by tracing its call"),
}


def _maker(where: str) -> Any:
    module, _, kind = where.partition(":")

    def make(config: Any, *, device: Any, dtype: Any) -> Any:
        return getattr(import_module(f"vader_diffusers.{module}"), kind)(config, device=device, dtype=dtype)

    return make


def _files(name: str) -> tuple[WeightFile, ...]:
    """The repository of each of a backbone's published models, what is read of it, and for which model."""
    return tuple(
        WeightFile(
            model.repository,
            folders=tuple(components(model.folder[INDEX])),
            numbers=model.numbers,
            licence=model.licence,
            note=model.note,
            when=(("model", (None, model.name) if model.name == DEFAULT[name] else (model.name,)),),
        )
        for model in published(name).values()
        if model.repository
    )


@hookimpl
def register_backbones(register: Register) -> None:
    """Announce the families and the traced pipeline."""
    for name, (where, options, summary) in _BACKBONES.items():
        register(name, _maker(where), config=options, summary=summary, weights=_files(name))


_LORA_FORMATS = {
    "wan_comfyui": ("WanComfyUI", "Wan under its own names, as ComfyUI has it"),
    "wan_kohya": ("WanKohya", "Wan as musubi-tuner (kohya) writes it"),
    "hunyuan_video_comfyui": ("HunyuanVideoComfyUI", "HunyuanVideo under its own names, as ComfyUI has it"),
    "hunyuan_video_kohya": ("HunyuanVideoKohya", "HunyuanVideo as musubi-tuner (kohya) writes it"),
    "ltx_comfyui": ("LTXComfyUI", "LTX-Video and LTX-2 as ComfyUI has them"),
}


@hookimpl
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Announce the layouts of the models' own code."""
    for name, (kind, summary) in _LORA_FORMATS.items():
        register(name, f"vader_diffusers.lora_format:{kind}", summary=summary)
