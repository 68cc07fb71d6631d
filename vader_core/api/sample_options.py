"""What can be asked for when a backbone samples: every option with its default and its limits."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vader_core.assembly.resolve import choose_device
from vader_core.backbone import Backbone
from vader_core.method.guidance import format_scale
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig, SamplerSection, TrainerSection, VideoSection, validated

#: What a person sets of a run's sections in order to sample.
_TRAINER = ("precision", "device", "seed")


@dataclass(frozen=True)
class SampleOption:
    """One option.

    Args:
        key: As ``-o`` and the run's YAML write it.
        group: ``model``, ``video``, ``sampling`` or ``run``.
        kind: What its value is.
        default: What is used where nobody says; ``None`` is left to the model.
        minimum: The least that is allowed.
        maximum: The most.
        choices: All that is allowed, where it is a list.
        help: One line.
    """

    key: str
    group: str
    kind: Literal["text", "integer", "number", "truth", "choice"]
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    help: str = ""


@dataclass(frozen=True)
class SampleForm:
    """All that can be asked of one backbone.

    Args:
        backbone: Its name.
        options: In the order in which a person meets them.
        needs_image: Whether every prompt needs a picture.
        takes_image: Whether a prompt may have one.
        reads_text: Whether the prompt's words reach the model.
        takes_references: Whether a prompt may name clips to start from.
        negative_prompt: The default.
    """

    backbone: str
    options: tuple[SampleOption, ...] = field(default_factory=tuple)
    needs_image: bool = False
    takes_image: bool = False
    reads_text: bool = True
    takes_references: bool = False
    negative_prompt: str = ""


def sample_options(
    backbone: str, *, sampler: str | None = None, device: str | None = None, registry: Registry | None = None
) -> SampleForm:
    """The options of ``backbone`` and of a sampler, from the components' own models.

    Args:
        backbone: A registered name.
        sampler: A registered name; the backbone's own by default.
        device: ``cpu`` or ``cuda``, which decides the default precision.
        registry: Where the components come from; the installed plugins by default.

    Raises:
        VaderError: No such component.
    """
    registry = registry or load_registry()
    component = registry.get("backbone", backbone)
    config = validated({"backbone": {"name": backbone}, "trainer": {"device": device}})
    made: Backbone = component.make({}, device=choose_device(config), dtype=torch.float32)
    name = sampler or made.defaults.sampler
    options = [
        *_model_options("backbone", "model", component.config),
        *_video(made),
        *_sampling(made, name, registry),
        *_run(config, made),
    ]
    return SampleForm(
        backbone=backbone,
        options=tuple(options),
        needs_image=made.needs_image,
        takes_image=made.needs_image or made.takes_image,
        reads_text=made.reads_text,
        takes_references=hasattr(made, "references"),
        negative_prompt=made.defaults.negative_prompt,
    )


def _video(backbone: Backbone) -> Iterable[SampleOption]:
    geometry, frames = backbone.defaults.geometry, backbone.defaults.sample_frames
    defaults = {
        "height": geometry.height,
        "width": geometry.width,
        "num_frames": geometry.num_frames if frames is None else frames,
        "fps": geometry.fps,
    }
    for name, info in VideoSection.model_fields.items():
        yield _option(f"video.{name}", "video", info, defaults[name])


def _sampling(backbone: Backbone, sampler: str, registry: Registry) -> Iterable[SampleOption]:
    defaults, fields = backbone.defaults, SamplerSection.model_fields
    names = tuple(sorted(registry.components["sampler"]))
    yield SampleOption(
        "sampler.name", "sampling", "choice", sampler, choices=names, help="How noise becomes latents."
    )
    yield _option("sampler.num_steps", "sampling", fields["num_steps"], defaults.num_steps)
    scale = format_scale(defaults.guidance_scale)
    yield _option("sampler.guidance_scale", "sampling", fields["guidance_scale"], scale)
    own = dict(defaults.sampler_options) if sampler == defaults.sampler else {}
    yield from _model_options("sampler", "sampling", registry.get("sampler", sampler).config, own)


def _run(config: RunConfig, backbone: Backbone) -> Iterable[SampleOption]:
    on_cpu = choose_device(config).type == "cpu"
    defaults = {"precision": "fp32" if on_cpu else backbone.defaults.precision, "seed": 0}
    for name in _TRAINER:
        yield _option(f"trainer.{name}", "run", TrainerSection.model_fields[name], defaults.get(name))


def _model_options(
    section: str, group: str, model: type[BaseModel], own: dict[str, Any] | None = None
) -> Iterable[SampleOption]:
    for name, info in model.model_fields.items():
        default = (own or {}).get(name, None if info.is_required() else info.get_default())
        yield _option(f"{section}.{info.alias or name}", group, info, default)


def _option(key: str, group: str, info: FieldInfo, default: Any) -> SampleOption:
    kind, choices = _kind(info.annotation)
    low, high = _limits(info.metadata)
    if kind == "choice" and default is None:
        choices = ("", *choices)
    plain = default if isinstance(default, str | int | float | bool | None) else str(default)
    return SampleOption(key, group, kind, plain, low, high, choices, info.description or "")


def _kind(
    annotation: Any,
) -> tuple[Literal["text", "integer", "number", "truth", "choice"], tuple[str, ...]]:
    """What a value of that type is on a form; of several types, text wherever text is one."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is Literal:
        return "choice", tuple(str(value) for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [_kind(one) for one in typing.get_args(annotation) if one is not type(None)]
        return kinds[0] if len(kinds) == 1 else ("text", ())
    simple: dict[Any, Literal["truth", "integer", "number"]] = {
        bool: "truth",
        int: "integer",
        float: "number",
    }
    return simple.get(annotation, "text"), ()


def _limits(metadata: Iterable[Any]) -> tuple[float | None, float | None]:
    low = high = None
    for one in metadata:
        low = next((found for name in ("ge", "gt") if (found := getattr(one, name, None)) is not None), low)
        high = next((found for name in ("le", "lt") if (found := getattr(one, name, None)) is not None), high)
    return low, high
