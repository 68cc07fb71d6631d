"""What a run would do, computed without weights."""

from __future__ import annotations

from typing import Any

import torch

from vader_core.assembly.levers import check_levers
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.errors import VaderError
from vader_core.lora.adapter import attach_lora
from vader_core.registry import Registry
from vader_core.run.config import RunConfig


def plan_facts(assembly: Assembly, processes: int) -> dict[str, Any]:
    """What a run would do, worked out without weights: the denoiser is built on the meta device.

    Args:
        assembly: Prepared, not loaded.
        processes: How many will train.
    """
    config, trainer = assembly.config, assembly.config.trainer
    with torch.device("meta"):
        denoiser = assembly.backbone.build_denoiser()
    frozen = sum(parameter.numel() for parameter in denoiser.parameters())
    attached = attach_lora(denoiser, assembly.lora_settings())
    batch = trainer.batch_size * trainer.accumulate * processes
    queries = batch * trainer.max_steps * max(1, trainer.low_variance) * trainer.inner_updates
    width = 4 if trainer.precision == "fp32" else 2
    return {
        "backbone": config.backbone.name,
        "device": str(assembly.device),
        "precision": trainer.precision,
        "video": str(assembly.geometry),
        "segments": trainer.segments,
        "sampler": f"{config.sampling.sampler}, {assembly.settings.sampling.plan.num_steps} steps, "
        f"guidance {config.sampling.guidance_scale}",
        "gradient": str(config.gradient),
        "rewards": ", ".join(f"{item.name} x {item.weight:g}" for item in config.rewards),
        "monitors": ", ".join(item.name for item in config.monitors) or "none",
        "prompts": config.prompts.source,
        "denoiser_parameters": frozen,
        "trainable_parameters": attached.parameters,
        "lora_modules": len(attached.modules),
        "effective_batch": batch,
        "steps": trainer.max_steps,
        "reward_queries": queries,
        "denoiser_gib": frozen * width / GIB,
        "adapter_and_optimizer_gib": attached.parameters * 16 / GIB,
    }


def dry_run(config: RunConfig, registry: Registry, processes: int = 1) -> dict[str, Any]:
    """Check everything that can be checked without weights and return the plan.

    The memory is that of a CUDA device, whether one is here or not; a run on the CPU has no estimate.
    """
    given = config.model_copy(deep=True)
    assembly = prepare(config, registry)
    require_trainable(assembly)
    facts = plan_facts(assembly, processes)
    if given.trainer.device == "cpu":
        return facts
    from vader_core.profiling.estimate import memory_facts

    return facts | memory_facts(as_settled(given, assembly), registry)


def as_settled(config: RunConfig, assembly: Assembly) -> RunConfig:
    """``config`` with what the real device decided."""
    if config.trainer.gradient_checkpointing == "auto" and assembly.device.type == "cuda":
        config.trainer.gradient_checkpointing = assembly.config.trainer.gradient_checkpointing
    return config


def require_trainable(assembly: Assembly) -> None:
    """Refuse a run without rewards or without prompts, or with levers that exclude each other.

    Raises:
        VaderError: Saying what to give.
    """
    check_levers(assembly)
    if not assembly.config.rewards:
        raise VaderError("no reward: give --reward NAME (`vader plugins` lists them)")
    if not assembly.draw_prompts([0]):
        raise VaderError(f"--prompts {assembly.config.prompts.source}: there are no prompts in it")
    _check_guard(assembly.config)
    if assembly.backbone.needs_image and any(prompt.image is None for prompt in assembly.draw_prompts([0])):
        raise VaderError(
            f"backbone {assembly.config.backbone.name!r} starts from an image, but the prompts have none: "
            "use --prompts images:FOLDER, or a file with an image column"
        )
    if assembly.config.trainer.segments > 1 and not _continues(assembly):
        raise VaderError(
            f"trainer.segments={assembly.config.trainer.segments}: backbone "
            f"{assembly.config.backbone.name!r} "
            "cannot start from an image, so it cannot continue a segment"
        )


def _check_guard(config: RunConfig) -> None:
    trainer = config.trainer
    if trainer.guard == "off":
        return
    wanting = {
        "--monitor NAME": not config.monitors,
        "-o trainer.validate_every=N": trainer.validate_every == 0,
        "-o trainer.validation_prompts=N": trainer.validation_prompts == 0,
    }
    missing = [flag for flag, absent in wanting.items() if absent]
    if missing:
        raise VaderError(
            f"--guard {trainer.guard} acts on a monitor that falls at a validation, and there is none: "
            f"add {' and '.join(missing)}"
        )


def _continues(assembly: Assembly) -> bool:
    return assembly.backbone.takes_image or assembly.backbone.needs_image
