"""From a complete configuration to the parts of a run, checked before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from vader_core.assembly.levers import check_levers, make_shortcuts
from vader_core.assembly.parts import DTYPES, ROLLOUT_ADAPTER, Assembly, precision_context
from vader_core.assembly.resolve import backbone_component, choose_device
from vader_core.backbone import Backbone
from vader_core.builtin.prompts.grammar import prompt_source
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.guidance import Guidance, parse_scale
from vader_core.method.model import Model, Stages, Student
from vader_core.method.objective import Objective
from vader_core.method.weighted import WeightedSum
from vader_core.prompts import PromptSource
from vader_core.registry import Registry
from vader_core.run.config import RunConfig


def prepare(config: RunConfig, registry: Registry, *, device: torch.device | None = None) -> Assembly:
    """Build what is cheap, and check what can be checked without weights.

    Args:
        config: Complete, from :func:`vader_core.assembly.resolve.resolve`.
        registry: Where the components come from.
        device: Where the models live; the run's own by default.

    Raises:
        VaderError: Parts that do not fit each other, or a configuration that is not complete.
    """
    if config.trainer.precision is None or config.performance.gradient_checkpointing in (None, "auto"):
        raise VaderError("the configuration is not complete: resolve it, and decide gradient checkpointing")
    device = choose_device(config) if device is None else device
    backbone = make_backbone(config, registry, device)
    model = make_model(config, registry, backbone)
    geometry = geometry_of(config)
    objective = make_objective(config, registry, backbone)
    assembly = Assembly(config, registry, device, model, geometry, make_prompts(config, registry), objective)
    model.plan(geometry)
    if model.student is not None:
        model.student.like(model).plan(geometry)
    check_levers(assembly)
    if objective is not None:
        objective.check(model, geometry)
    return assembly


def geometry_of(config: RunConfig) -> Geometry:
    """The geometry of a complete configuration."""
    video = config.video
    return Geometry(
        int(video.height or 0), int(video.width or 0), int(video.num_frames or 0), float(video.fps or 0)
    )


def make_backbone(config: RunConfig, registry: Registry, device: torch.device) -> Backbone:
    """The backbone, not loaded."""
    component = backbone_component(config, registry)
    dtype = DTYPES[str(config.trainer.precision)]
    made: Backbone = component.make(config.backbone.options, device=device, dtype=dtype)
    return made


def make_model(config: RunConfig, registry: Registry, backbone: Backbone) -> Model:
    """Backbone, sampler, guidance and precision, as one value."""
    asked, performance = config.sampler, config.performance
    component = registry.get("sampler", str(asked.name))
    sampler = component.make(asked.options, device=backbone.device, dtype=backbone.dtype)
    scale = parse_scale(asked.guidance_scale if asked.guidance_scale is not None else 1.0)
    embedded = backbone.defaults.guidance == "embedded"
    if embedded and isinstance(scale, tuple):
        raise VaderError(
            f"--guidance-scale {asked.guidance_scale}: backbone {backbone.name!r} is told one number; a "
            "scale that runs over the frames is for models with two branches"
        )
    guidance = Guidance(scale, asked.split_guidance, backbone.defaults.guidance_channels, embedded)
    return Model(
        backbone=backbone,
        sampler=sampler,
        guidance=guidance,
        num_steps=int(asked.num_steps or 0),
        geometry=geometry_of(config),
        autocast=partial(precision_context, config, backbone.device),
        checkpointing=bool(performance.gradient_checkpointing),
        shortcuts=make_shortcuts(config, backbone, guidance),
        stages=Stages() if performance.offload else None,
        student=_student(config, registry, backbone, guidance),
    )


def _student(config: RunConfig, registry: Registry, backbone: Backbone, guidance: Guidance) -> Student | None:
    """What makes the rollouts of a store, where that is not the model as it samples."""
    asked = config.rollout
    if not asked.asked:
        return None
    component = registry.get("sampler", str(asked.sampler))
    return Student(
        component.make(asked.options, device=backbone.device, dtype=backbone.dtype),
        replace(guidance, scale=parse_scale(1.0 if asked.guidance_scale is None else asked.guidance_scale)),
        int(asked.num_steps or 0),
        None if asked.lora is None else ROLLOUT_ADAPTER,
    )


def make_objective(config: RunConfig, registry: Registry, backbone: Backbone) -> WeightedSum | None:
    """What training minimises; ``None`` where nothing is trained."""
    terms = {}
    for name, item in config.objective.items():
        component = registry.get("objective", name)
        made: Objective = component.make(item.options, device=backbone.device, dtype=backbone.dtype)
        terms[name] = (1.0 if item.weight is None else item.weight, made)
    return WeightedSum.of(terms) if terms else None


def make_prompts(config: RunConfig, registry: Registry) -> PromptSource | None:
    """The prompt source; ``None`` where the clips' captions stand for it.

    Raises:
        VaderError: None was named, or what it names cannot be read.
    """
    source = config.prompts.source
    if source is None and config.data.source is not None:
        return None
    if source is None:
        raise VaderError("no prompts: give --prompts NAME, file:PATH, text:… or images:FOLDER")
    name, options = prompt_source(source, config.prompts.options)
    component = registry.get("prompt source", name)
    made: PromptSource = component.make(options, device=torch.device("cpu"), dtype=torch.float32)
    return made
