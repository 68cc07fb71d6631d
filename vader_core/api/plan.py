"""What a run would do, computed without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vader_core.api.configure import complete
from vader_core.assembly.parallel import in_processes
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.errors import VaderError
from vader_core.lora.adapter import LoraSettings, attach_lora, fitted, refuse_foreign, settings_of
from vader_core.method.options import RewardGradientOptions
from vader_core.parallel.layout import Layout
from vader_core.profiling.estimate import memory_facts
from vader_core.progress import Progress, unseen
from vader_core.registry import Registry, load_registry
from vader_core.run.adapters import find_adapter
from vader_core.run.config import PerformanceSection, PromptSection, RunConfig
from vader_core.run.layers import changed
from vader_core.run.stages import stages_of, total_steps
from vader_core.training.optimizer import check_schedule
from vader_core.tuning.full import chosen_weights
from vader_core.wanted import files_read, present

#: Options of ``performance`` that only a CUDA device has; off by default.
OF_CUDA = ("cuda_graphs", "compile_blocks", "offload_activations", "swap_blocks", "fp8")
#: What an objective may need, the section that gives it, and the flag.
_NEEDS = {
    "rewards": ("reward", "no reward: give --reward NAME (`vader plugins` lists them)"),
    "videos": ("data", "no data: give --data file:PATH, videos:FOLDER or NAME"),
    "scores": ("reward", "no reward: give --reward NAME (`vader plugins` lists them)"),
}


#: Called twice for a run, or for each of its stages: with all facts but the memory, and ``False``; then, when
#: that is estimated, with all of them, and ``True``.
Found = Callable[[dict[str, Any], bool], object]


def unheard(facts: dict[str, Any], whole: bool) -> None:
    """Nobody listens."""


def plan(
    config: RunConfig,
    *,
    registry: Registry | None = None,
    processes: int = 1,
    progress: Progress = unseen,
    found: Found = unheard,
) -> dict[str, Any]:
    """Check everything that can be checked without weights and return the plan.

    The memory is that of a CUDA device, whether one is here or not; a run on the CPU has no estimate. Nothing
    is downloaded for the prompts: where a named source's files are not here, ``prompts_read`` is false.

    Args:
        config: What was asked for.
        registry: Where the components come from; the installed plugins by default.
        processes: How many will train.
        progress: Told what is being done.
        found: Told what is known as soon as it is.

    Returns:
        Facts by name; of a run in stages those of each, as ``stages``.

    Raises:
        VaderError: Anything that cannot be done.
    """
    progress("checking the configuration", 0, 0)
    registry = registry or load_registry()
    if config.stages:
        return _of_stages(config, registry, processes, progress, found)
    asked, config = config.prompts, _with_prompts_here(config, registry)
    unread = config.prompts is not asked
    elsewhere = _for_an_absent_accelerator(config)
    if elsewhere:
        config = changed(config, trainer={"device": None})
    settled = complete(config, registry, device=torch.device("cuda") if elsewhere else None)
    assembly = prepare(changed(settled, performance=_of_cuda_off()) if elsewhere else settled, registry)
    require_trainable(assembly)
    layout = Layout(processes, config.parallel.shard, config.parallel.context)
    layout.check()
    assembly.config = in_processes(assembly.config, layout)
    facts = plan_facts(assembly, layout.data)
    if unread:
        facts |= {"prompts": asked.source, "prompts_read": False, "held_out_prompts": None}
    if elsewhere:
        facts["device"] = "cuda (none is here)"
    if config.data.source is not None:
        facts["data"] = assembly.videos.summary.as_dict()
    found(facts, False)
    if config.trainer.device == "cpu":
        found(facts, True)
        return facts
    progress("estimating the memory", 0, 0)
    cuda = torch.device("cuda")
    here = elsewhere or assembly.device.type == "cuda"
    on_cuda = settled if here else complete(config, registry, device=cuda)  # its defaults are not the CPU's
    facts |= memory_facts(in_processes(on_cuda, layout), registry, processes=processes)
    found(facts, True)
    return facts


def _of_stages(
    config: RunConfig, registry: Registry, processes: int, progress: Progress, found: Found
) -> dict[str, Any]:
    """Each stage's plan."""
    every = []
    for number, stage in enumerate(stages_of(config), 1):
        where = {"stage": stage.name, "number": number}

        def of_stage(facts: dict[str, Any], whole: bool, where: dict[str, Any] = where) -> None:
            found({**where, **facts}, whole)

        facts = plan(stage.config, registry=registry, processes=processes, progress=progress, found=of_stage)
        every.append({"stage": stage.name, **facts})
    return {"stages": every, "steps": total_steps(config)}


def _with_prompts_here(config: RunConfig, registry: Registry) -> RunConfig:
    """The run with one prompt in words, where its source's files on the hub are not here yet."""
    asked = config.prompts
    if asked.source is None or asked.source not in registry.components["prompt source"]:
        return config
    wanted = files_read(registry.get("prompt source", asked.source), asked.options)
    if all(one.optional or present(one) for one in wanted):
        return config
    placeholder = PromptSection(source="text:a video", negative_prompt=asked.negative_prompt)
    return config.model_copy(update={"prompts": placeholder})


def _for_an_absent_accelerator(config: RunConfig) -> bool:
    """Whether the run is for an accelerator and is only planned here: a plan needs none."""
    asked = config.trainer
    wanted = asked.device == "cuda" or asked.precision == "fp16"
    wanted = wanted or (asked.device is None and any(getattr(config.performance, name) for name in OF_CUDA))
    return wanted and not torch.cuda.is_available()


def _of_cuda_off() -> dict[str, Any]:
    """What the machine that plans would refuse to be prepared with; the memory is estimated with it."""
    return {name: PerformanceSection.model_fields[name].get_default() for name in OF_CUDA}


def plan_facts(assembly: Assembly, processes: int) -> dict[str, Any]:
    """What a run would do; the denoiser is built on the meta device.

    Args:
        assembly: Prepared, not loaded.
        processes: How many will train.
    """
    config, trainer = assembly.config, assembly.config.trainer
    with torch.device("meta"):
        denoiser = assembly.backbone.build_denoiser()
    frozen = sum(parameter.numel() for parameter in denoiser.parameters())
    trainable, modules = _what_learns(assembly, denoiser)
    batch = trainer.batch_size * trainer.accumulate * processes
    asked = _reward_gradient(config)
    queries = 0 if assembly.objective is None else assembly.objective.queries
    width = 4 if trainer.precision == "fp32" else 2
    return {
        "backbone": config.backbone.name,
        "device": str(assembly.device),
        "precision": trainer.precision,
        "video": str(assembly.geometry),
        "segments": assembly.segments.count,
        "sampler": f"{config.sampler.name}, {config.sampler.num_steps} steps, guidance "
        f"{config.sampler.guidance_scale}",
        "objective": ", ".join(f"{name} x {item.weight:g}" for name, item in config.objective.items()),
        "gradient": str(asked.get("gradient", "")),
        "store": _store(asked, config),
        "rewards": ", ".join(f"{item.name} x {item.weight:g}" for item in config.reward),
        "monitors": ", ".join(item.name for item in config.monitor) or "none",
        "prompts": config.prompts.source or f"the captions of {config.data.source}",
        "held_out_prompts": assembly.prompts_held_out,
        "denoiser_parameters": frozen,
        "tuning": config.tuning.kind,
        "trainable_parameters": trainable,
        "lora_modules": modules,
        "effective_batch": batch,
        "steps": trainer.max_steps,
        "reward_queries": batch * trainer.max_steps * queries,
        "denoiser_gib": frozen * width / GIB,
        "adapter_and_optimizer_gib": trainable * 16 / GIB,
    }


def _store(asked: dict[str, Any], config: RunConfig) -> str:
    """What a reward gradient's updates start from, in words."""
    kind = asked.get("store")
    if kind is None:
        return "none"
    if kind == "data":
        return f"the clips of {config.data.source}"
    fresh = RewardGradientOptions()
    serves = asked.get("store_refresh", fresh.store_refresh)
    made = f"{asked.get('store_size', fresh.store_size)} rollouts, each for {serves or 'all'} steps"
    student = config.rollout
    if not student.asked:
        return made
    own = f"{student.sampler}, {student.num_steps} steps, guidance {student.guidance_scale}"
    return f"{made}, made by {student.lora or 'the model'} ({own})"


def _what_learns(assembly: Assembly, denoiser: torch.nn.Module) -> tuple[int, int]:
    """How many numbers learn, and in how many modules an adapter lies."""
    tuning = assembly.config.tuning
    if tuning.kind == "full":
        every = dict(denoiser.named_parameters())
        return sum(every[name].numel() for name in chosen_weights(denoiser, tuning.modules)), 0
    attached = attach_lora(denoiser, _settings(denoiser, assembly))
    return attached.parameters, len(attached.modules)


def _reward_gradient(config: RunConfig) -> dict[str, Any]:
    item = config.objective.get("reward_gradient")
    return {} if item is None else item.options


def require_trainable(assembly: Assembly) -> None:
    """Refuse a run that lacks what its objective needs.

    Raises:
        VaderError: Saying what to give.
    """
    config = assembly.config
    if assembly.objective is None:
        raise VaderError(
            "nothing to train on: give --reward NAME (`vader plugins` lists them), or --data videos:FOLDER"
        )
    for need in sorted(assembly.objective.needs & set(_NEEDS)):
        section, message = _NEEDS[need]
        if not (config.data.source if section == "data" else getattr(config, section)):
            raise VaderError(message)
    if "videos" in assembly.objective.needs:
        assembly.videos.summary.check(config.data.unreadable_limit)
    drawn = assembly.draw_prompts([0])
    if not drawn:
        raise VaderError(f"--prompts {config.prompts.source}: there are no prompts in it")
    assembly.check_prompts()
    _check_guard(config)
    _check_caps(assembly)
    check_schedule(config.trainer)
    if not assembly.backbone.needs_image or all(prompt.image is not None for prompt in drawn):
        return
    validated = config.validation.prompts or config.validation.evaluation_pairs
    if assembly.objective.needs != {"videos"} or validated:
        without = (
            "" if assembly.objective.needs != {"videos"} else ", or validate nothing: -o validation.prompts=0"
        )
        raise VaderError(
            f"backbone {config.backbone.name!r} starts from an image, but the prompts have none: "
            f"use --prompts images:FOLDER, or a file with an image column{without}"
        )


def _check_caps(assembly: Assembly) -> None:
    """A cap stops a gradient: it does nothing where no objective takes one of a reward."""
    config = assembly.config
    capped = [item.name for item in config.reward if item.cap is not None]
    if capped and assembly.objective is not None and "rewards" not in assembly.objective.needs:
        named = " and ".join(config.objective)
        raise VaderError(
            f"reward.{capped[0]}.cap stops the reward's gradient, and --objective {named} takes none: leave "
            "it out, or train with --objective reward_gradient"
        )


def _check_guard(config: RunConfig) -> None:
    validation = config.validation
    if validation.guard == "off":
        return
    wanting = {
        "--monitor NAME": not config.monitor,
        "-o validation.every=N": validation.every == 0,
        "-o validation.prompts=N": validation.prompts == 0,
    }
    missing = [flag for flag, absent in wanting.items() if absent]
    if missing:
        raise VaderError(
            f"--guard {validation.guard} acts on a monitor that falls at a validation, and there is none: "
            f"add {' and '.join(missing)}"
        )


def _settings(denoiser: nn.Module, assembly: Assembly) -> LoraSettings:
    """The shape of what is trained: a fresh adapter's, or that of the one to start from."""
    start = assembly.config.lora.start
    if start is None:
        return assembly.lora_settings()
    adapter = fitted(denoiser, find_adapter(start, assembly.registry))
    settings = settings_of(adapter)
    refuse_foreign(denoiser, settings, what=f"--lora {start}")
    return settings
