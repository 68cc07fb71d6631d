"""From a configuration to the parts of a run: everything is checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from vader_core.assembly.parts import _DTYPES, Assembly
from vader_core.backbone import Backbone
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.method.denoise import Sampling
from vader_core.method.frames import check_choice
from vader_core.method.gradient import parse_gradient
from vader_core.method.guidance import Guidance, format_scale, parse_scale
from vader_core.method.settings import StepSettings
from vader_core.method.shortcuts import Shortcuts, parse_interval
from vader_core.prompts import PromptSource
from vader_core.registry import Registry
from vader_core.run.config import MonitorSection, Precision, RewardSection, RunConfig

#: The share of the free memory that an estimate may take: it can be off by a tenth, and memory fragments.
MARGIN = 0.8


def choose_device(config: RunConfig) -> torch.device:
    """The device of a run.

    Raises:
        VaderError: CUDA was asked for and is not there.
    """
    if config.trainer.device == "cuda" and not torch.cuda.is_available():
        raise VaderError(
            "trainer.device=cuda: no CUDA device is available here; use cpu, or see `vader doctor`"
        )
    if config.trainer.device == "cpu":
        return torch.device("cpu")
    from accelerate.state import PartialState

    return torch.device(PartialState().device)


def _precision(config: RunConfig, backbone_default: Precision, device: torch.device) -> Precision:
    if config.trainer.precision is None:
        return "fp32" if device.type == "cpu" else backbone_default
    if config.trainer.precision == "fp16" and device.type == "cpu":
        raise VaderError("--precision fp16 needs an accelerator: use bf16 or fp32 on a CPU")
    return config.trainer.precision


def make_backbone(config: RunConfig, registry: Registry, device: torch.device) -> tuple[Backbone, RunConfig]:
    """The backbone, not loaded, and the configuration with the precision settled.

    Raises:
        VaderError: None was named, or its options are wrong.
    """
    name = config.backbone.name
    if name is None:
        raise VaderError("no backbone: give --backbone NAME (`vader plugins` lists them)")
    component = registry.get("backbone", name)
    options = component.options(config.backbone.options)
    config = config.model_copy(deep=True)
    config.backbone.options = options.model_dump(mode="json", exclude_unset=True)
    probe = component.factory(options, device=device, dtype=torch.float32)
    precision = _precision(config, probe.defaults.precision, device)
    config.trainer.precision = precision
    if _DTYPES[precision] == torch.float32:
        return probe, config
    made = component.factory(options, device=device, dtype=_DTYPES[precision])
    return made, config


def make_sampling(config: RunConfig, registry: Registry, backbone: Backbone, geometry: Geometry) -> Sampling:
    """Sampler, plan and guidance; the configuration must be complete."""
    sampling = config.sampling
    component = registry.get("sampler", str(sampling.sampler))
    sampler = component.make(sampling.options, device=backbone.device, dtype=backbone.dtype)
    plan = sampler.plan(backbone.schedule, int(sampling.num_steps or 0), geometry)
    scale = parse_scale(sampling.guidance_scale if sampling.guidance_scale is not None else 1.0)
    return Sampling(sampler, plan, Guidance(scale, sampling.split_guidance))


def make_prompts(config: RunConfig, registry: Registry) -> PromptSource:
    """The prompt source.

    Raises:
        VaderError: None was named, or what it names cannot be read.
    """
    from vader_core.builtin.prompts import parse_prompts

    source = config.prompts.source
    if source is None:
        raise VaderError("no prompts: give --prompts NAME, file:PATH, text:… or images:FOLDER")
    name, options = parse_prompts(source)
    component = registry.get("prompt source", name)
    made: PromptSource = component.make(
        {**options, **config.prompts.options}, device=torch.device("cpu"), dtype=torch.float32
    )
    return made


def prepare(config: RunConfig, registry: Registry, *, device: torch.device | None = None) -> Assembly:
    """Check a configuration, fill in every default, and build what is cheap.

    Raises:
        VaderError: Anything in it that cannot be done.
    """
    device = choose_device(config) if device is None else device
    items: list[RewardSection | MonitorSection] = [*config.rewards, *config.monitors]
    for item in items:
        item.options = (
            registry.get("reward", item.name)
            .options(item.options)
            .model_dump(mode="json", exclude_unset=True)
        )
    _check_unique(config)
    given = config
    backbone, config = make_backbone(config, registry, device)
    if config.trainer.gradient_checkpointing == "auto":
        config.trainer.gradient_checkpointing = _checkpointing_by_memory(given, registry, device)
    geometry = _fill_geometry(config, backbone)
    _fill_defaults(config, backbone)
    sampling = make_sampling(config, registry, backbone, geometry)
    settings = make_settings(config, geometry, sampling)
    return Assembly(config, registry, device, backbone, settings, make_prompts(config, registry))


def _checkpointing_by_memory(config: RunConfig, registry: Registry, device: torch.device) -> bool:
    """Whether a step without recomputation would ask for more than :data:`MARGIN` of what is free."""
    from vader_core.device import free_gib
    from vader_core.profiling.estimate import memory_facts

    free = free_gib() if device.type == "cuda" else None
    if free is None:
        return device.type != "cpu"
    whole = config.model_copy(deep=True)
    whole.trainer.gradient_checkpointing = False
    facts = memory_facts(whole, registry, validation=False)
    if facts["estimated_peak_gib"] is None:
        raise VaderError(
            f"trainer.gradient_checkpointing=auto needs an estimate, which is {facts['estimate']}: "
            "use true or false"
        )
    return bool(facts["estimated_peak_gib"] > MARGIN * free)


def _check_unique(config: RunConfig) -> None:
    names = [item.name for item in config.rewards]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise VaderError(
            f"--reward {repeated[0]} is given twice: give one weight, --reward {repeated[0]}:WEIGHT"
        )
    both = sorted(set(names) & {item.name for item in config.monitors})
    if both:
        raise VaderError(f"--monitor {both[0]}: it is trained on, so it cannot judge; monitor another reward")


def _fill_geometry(config: RunConfig, backbone: Backbone) -> Geometry:
    video = config.video
    geometry = backbone.resolve_geometry(
        GeometryRequest(video.height, video.width, video.num_frames, video.fps)
    )
    video.height, video.width = geometry.height, geometry.width
    video.num_frames, video.fps = geometry.num_frames, geometry.fps
    return geometry


def _fill_defaults(config: RunConfig, backbone: Backbone) -> None:
    defaults = backbone.defaults
    sampling, trainer, lora = config.sampling, config.trainer, config.lora
    if sampling.sampler is None:
        sampling.sampler = defaults.sampler
        sampling.options = {**defaults.sampler_options, **sampling.options}
    if sampling.num_steps is None:
        sampling.num_steps = defaults.num_steps
    if sampling.guidance_scale is None:
        sampling.guidance_scale = format_scale(defaults.guidance_scale)
    if config.gradient is None:
        config.gradient = backbone.default_gradient(sampling.num_steps)
    if config.prompts.source is None:
        config.prompts.source = defaults.prompts
    if lora.targets is None:
        lora.targets = list(backbone.lora_targets)
    if lora.alpha is None:
        lora.alpha = float(lora.rank)
    if trainer.gradient_checkpointing is None:
        trainer.gradient_checkpointing = backbone.device.type != "cpu"


def make_settings(config: RunConfig, geometry: Geometry, sampling: Sampling) -> StepSettings:
    """What a training step does, checked against the geometry and the number of steps."""
    trainer = config.trainer
    gradient = parse_gradient(str(config.gradient))
    gradient.check(sampling.plan.num_steps)
    chosen = trainer.gradient_segments
    if chosen is not None and (not chosen or any(not 0 <= index < trainer.segments for index in chosen)):
        raise VaderError(f"trainer.gradient_segments={chosen}: segments run from 0 to {trainer.segments - 1}")
    _check_renoising(config)
    interval = trainer.guidance_interval
    shortcuts = Shortcuts(
        guidance_interval=None if interval is None else parse_interval(interval),
        guidance_cache=trainer.guidance_cache,
        feature_cache=trainer.feature_cache,
        fp8=trainer.fp8,
    )
    shortcuts.check(sampling.guidance, sampling.plan.num_steps)
    settings = StepSettings(
        geometry=geometry,
        sampling=sampling,
        gradient=gradient,
        detach_input=trainer.detach_input,
        reward_frames=config.reward_frames or "random",
        segments=trainer.segments,
        gradient_segments=None if chosen is None else tuple(chosen),
        carry_gradient=trainer.carry_gradient,
        low_variance=trainer.low_variance,
        base_weight=trainer.base_weight,
        checkpointing=bool(trainer.gradient_checkpointing),
        shortcuts=shortcuts,
    )
    check_choice(settings.reward_frames, settings.joined_frames)
    return settings


def _check_renoising(config: RunConfig) -> None:
    """Refuse what does not fit re-noised last steps."""
    trainer = config.trainer
    asked = {"low_variance": trainer.low_variance > 0, "inner_updates": trainer.inner_updates > 1}
    names = [name for name, on in asked.items() if on]
    if not names:
        return
    if config.gradient != "last":
        raise VaderError(
            f"trainer.{names[0]} re-noises the last step, so --gradient {config.gradient} does not fit: "
            "use last"
        )
    clashing = {
        "segments": trainer.segments > 1,
        "detach_input": trainer.detach_input,
        "base_weight": trainer.base_weight > 0,
        "inner_updates": len(names) > 1,
    }
    for name, on in clashing.items():
        if on:
            raise VaderError(f"trainer.{names[0]} and trainer.{name} cannot be used together: leave one out")


AutocastFactory = Callable[[], AbstractContextManager[None]]
