"""A configuration with every default filled in: a pure function of what was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from vader_core.backbone import Backbone
from vader_core.errors import VaderError
from vader_core.function_files import FunctionFile, permitted
from vader_core.geometry import GeometryRequest
from vader_core.method.guidance import format_scale
from vader_core.paths import kept, kept_data, kept_place, kept_source
from vader_core.registry import Component, Registry
from vader_core.run.config import (
    DEFAULT_RANK,
    LoraSection,
    ObjectiveSection,
    Precision,
    RunConfig,
    ScoredSection,
)
from vader_core.run.layers import changed
from vader_core.run.section import Tree
from vader_core.video import frame_rate

#: No model makes more, and no machine holds it.
_MOST = {"height": 32_768, "width": 32_768, "num_frames": 100_000}
_FRESH = LoraSection().model_dump()
#: What runs where no objective is named: by what is given.
IMPLIED = {"reward": "reward_gradient", "data": "supervised"}


def choose_device(config: RunConfig) -> torch.device:
    """The device of a run.

    Raises:
        VaderError: CUDA was asked for and is not there.
    """
    if config.trainer.device == "cuda" and not torch.cuda.is_available():
        raise VaderError(
            "trainer.device=cuda: no CUDA device is available here; use cpu, or see `vader doctor`"
        )
    if config.trainer.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def resolve(
    config: RunConfig, registry: Registry, *, device: torch.device | None = None, training: bool = True
) -> RunConfig:
    """The configuration with every default filled in and every component's options checked.

    Args:
        config: What was asked for; left as it is.
        registry: Where the components come from.
        device: Decides the default precision; the run's own by default.
        training: Whether something is trained; otherwise no objective is implied.

    Raises:
        VaderError: Anything in it that cannot be done.
    """
    device = choose_device(config) if device is None else device
    _check_unique(config)
    _check_start(config)
    component = backbone_component(config, registry)
    backbone: Backbone = component.make(config.backbone.options, device=device, dtype=torch.float32)
    config = changed(
        config,
        backbone=_given(component, config.backbone.options),
        video=_geometry(config, backbone),
        sampler=_sampler(config, registry, backbone),
        prompts={"source": kept_source(_prompts(config, backbone))},
        data=_data(config),
        trainer={"precision": _precision(config, backbone.defaults.precision, device)},
        performance=_performance(config, device),
        lora=_lora(config, backbone),
    )
    config = changed(config, rollout=_rollout(config, registry))
    scored: Tree = {name: _items(config, registry, name) for name in ("reward", "monitor")}
    objectives = _objectives(config, registry, backbone, training=training)
    tree: Tree = config.model_dump() | scored | {"objective": objectives}
    return RunConfig.model_validate(tree)


def backbone_component(config: RunConfig, registry: Registry) -> Component:
    """The backbone's component.

    Raises:
        VaderError: None was named.
    """
    if config.backbone.name is None:
        raise VaderError("no backbone: give --backbone NAME (`vader plugins` lists them)")
    return registry.get("backbone", config.backbone.name)


def _given(component: Component, options: Tree) -> Tree:
    """The options that were given, checked and typed; a default that may change later is left out."""
    options_of = component.options(options)
    found: Tree = options_of.model_dump(mode="json", exclude_unset=True)
    for name, value in found.items():
        if isinstance(getattr(options_of, name, None), Path):
            found[name] = kept(value)
        elif isinstance(value, str) and (name == "weights" or name.endswith("_weights")):
            found[name] = kept_place(value)
    return found


def _check_unique(config: RunConfig) -> None:
    names = [item.name for item in config.reward]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise VaderError(
            f"--reward {repeated[0]} is given twice: give one weight, --reward {repeated[0]}:WEIGHT"
        )
    watched = [item.name for item in config.monitor]
    twice = sorted({name for name in watched if watched.count(name) > 1})
    if twice:
        raise VaderError(f"--monitor {twice[0]} is given twice: give it once")
    both = sorted(set(names) & set(watched))
    if both:
        raise VaderError(f"--monitor {both[0]}: it is trained on, so it cannot judge; monitor another reward")


def _check_start(config: RunConfig) -> None:
    """An adapter to start from has its own rank, alpha and modules."""
    if config.lora.start is None:
        return
    shaped = {"rank": "--lora-rank", "alpha": "--lora-alpha", "targets": "--lora-targets"}
    for name in ("rank", "alpha", "targets"):
        if getattr(config.lora, name) is not None:
            raise VaderError(
                f"{shaped[name]} (lora.{name}) cannot be used with --lora: the adapter to start from has its "
                "own rank, alpha and modules; leave it out"
            )


def _lora(config: RunConfig, backbone: Backbone) -> Tree:
    """The shape of a fresh adapter; one to start from has its own."""
    asked = config.lora
    if config.tuning.kind == "lora":
        if config.tuning.modules is not None:
            raise VaderError(
                "tuning.modules names what learns with --tune full; an adapter's places are --lora-targets"
            )
        if asked.start is not None:
            return {"start": kept_place(asked.start)}
        rank = asked.rank or DEFAULT_RANK
        return {
            "rank": rank,
            "alpha": asked.alpha or float(rank),
            "targets": asked.targets or list(backbone.lora_targets),
        }
    given = [name for name in LoraSection.model_fields if getattr(config.lora, name) != _FRESH[name]]
    if given:
        raise VaderError(f"--tune full trains no adapter, so lora.{given[0]} has no effect: leave it out")
    return {}


def _prompts(config: RunConfig, backbone: Backbone) -> str | None:
    """Without prompts of its own, a run on clips is validated on their captions."""
    if config.prompts.source is None and config.data.source is not None:
        return None
    return config.prompts.source or backbone.defaults.prompts


def _data(config: RunConfig) -> Tree:
    """Paths that stay usable from another folder."""
    asked = config.data
    root = {} if asked.root is None else {"root": kept(asked.root)}
    return {"source": kept_data(asked.source), **root}


def _is_given(config: RunConfig, section: str) -> bool:
    return bool(config.data.source if section == "data" else getattr(config, section))


def _precision(config: RunConfig, default: Precision, device: torch.device) -> Precision:
    if config.trainer.precision is None:
        return "fp32" if device.type == "cpu" else default
    if config.trainer.precision == "fp16" and device.type == "cpu":
        raise VaderError("--precision fp16 needs an accelerator: use bf16 or fp32 on a CPU")
    return config.trainer.precision


def _geometry(config: RunConfig, backbone: Backbone) -> Tree:
    video = config.video
    found = backbone.resolve_geometry(GeometryRequest(video.height, video.width, video.num_frames, video.fps))
    frame_rate(found.fps)  # before anything runs: its clips will be written
    for name, most in _MOST.items():
        if getattr(found, name) > most:
            raise VaderError(f"{name}={getattr(found, name)} is not allowed: use at most {most:,}")
    return {
        "height": found.height,
        "width": found.width,
        "num_frames": found.num_frames,
        "fps": found.fps,
    }


def _sampler(config: RunConfig, registry: Registry, backbone: Backbone) -> Tree:
    asked, defaults = config.sampler, backbone.defaults
    options = asked.options
    if asked.name is None:
        options = {**defaults.sampler_options, **options}
    name = asked.name or defaults.sampler
    scale = asked.guidance_scale
    return {
        **_given(registry.get("sampler", name), options),
        "name": name,
        "num_steps": asked.num_steps or defaults.num_steps,
        "guidance_scale": format_scale(defaults.guidance_scale) if scale is None else scale,
    }


def _rollout(config: RunConfig, registry: Registry) -> Tree:
    """How a store's rollouts are made, complete; nothing where that is the run's own way."""
    asked = config.rollout
    if not asked.asked:
        return {}
    learning = config.objective.get("reward_gradient")
    if learning is None or learning.options.get("store") != "rollouts":
        raise VaderError(
            "--rollout-lora and rollout.… say how the rollouts of a store are made: add "
            "-o objective.reward_gradient.store=rollouts, or leave them out"
        )
    if asked.lora is not None and config.tuning.kind == "full":
        raise VaderError("--rollout-lora stands beside a trained adapter, and --tune full trains none")
    options = asked.options if asked.sampler is not None else {**config.sampler.options, **asked.options}
    name = asked.sampler or str(config.sampler.name)
    return {
        **_given(registry.get("sampler", name), options),
        "lora": None if asked.lora is None else kept_place(asked.lora),
        "sampler": name,
        "num_steps": asked.num_steps or (4 if asked.lora is not None else config.sampler.num_steps),
        "guidance_scale": 1.0 if asked.guidance_scale is None else asked.guidance_scale,
    }


def _performance(config: RunConfig, device: torch.device) -> Tree:
    if config.performance.gradient_checkpointing is not None:
        return {}
    return {"gradient_checkpointing": device.type != "cpu"}


def _items(config: RunConfig, registry: Registry, section: str) -> list[Tree]:
    return [_item(item, registry) for item in getattr(config, section)]


def _item(item: ScoredSection, registry: Registry) -> Tree:
    component = permitted(registry, item.model_dump())
    found = {**item.model_dump(), **_given(component, item.options)}
    if item.function_file is not None:  # what is used is what lies there now
        found["function_sha256"] = FunctionFile(Path(item.function_file), item.name).checksum
    return found


def _objectives(config: RunConfig, registry: Registry, backbone: Backbone, *, training: bool) -> Tree:
    """The objectives that run, each with its options complete."""
    named = {name: item for name, item in config.objective.items() if item.weight is not None}
    chosen: dict[str, ObjectiveSection] = dict(named)
    if not named and training:
        implied = [name for given, name in IMPLIED.items() if _is_given(config, given)]
        chosen = {name: config.objective.get(name, ObjectiveSection(weight=None)) for name in implied}
    if not training or not chosen:  # nothing runs yet: what is said of it stands until something does
        chosen = dict(config.objective)
    idle = sorted(set(config.objective) - set(chosen))
    if idle:
        raise VaderError(
            f"objective.{idle[0]} has options, but it does not run: give --objective {idle[0]}, or leave "
            f"them out (running: {', '.join(chosen) or 'none'})"
        )
    num_steps = config.sampler.num_steps or backbone.defaults.num_steps
    return {name: _objective(name, item, registry, backbone, num_steps) for name, item in chosen.items()}


def _objective(
    name: str, item: ObjectiveSection, registry: Registry, backbone: Backbone, num_steps: int
) -> Tree:
    component = registry.get("objective", name)
    objective: Any = component.make(item.options, device=backbone.device, dtype=backbone.dtype)
    given = _given(component, item.options)
    open_ones = {
        key: value for key, value in objective.defaults(backbone, num_steps).items() if given.get(key) is None
    }
    return {"weight": 1.0 if item.weight is None else item.weight, **given, **open_ones}
