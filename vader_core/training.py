"""A whole training run: plan it, begin it, or continue it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vader_core.assembly import Assembly, prepare
from vader_core.device import GIB
from vader_core.errors import VaderError
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import validation_pairs
from vader_core.levers import check_levers
from vader_core.loading import load_parts
from vader_core.lora.adapter import attach_lora
from vader_core.registry import Registry
from vader_core.run.checkpoint import newest_whole, read_checkpoint
from vader_core.run.config import RunConfig
from vader_core.run.directory import Run
from vader_core.run.layers import changes
from vader_core.run.tracking import Listener, Silence
from vader_core.trainer import Trainer, make_accelerator


@dataclass(frozen=True)
class Request:
    """What a training command asked for.

    Args:
        config: The merged configuration.
        out: The run directory; of an existing run where ``resume`` is set.
        overwrite: Replace an existing run.
        resume: Continue the run in ``out``.
        allow_changes: Continue although the configuration differs.
    """

    config: RunConfig
    out: Path
    overwrite: bool = False
    resume: bool = False
    allow_changes: bool = False


def default_out(config: RunConfig) -> Path:
    """``runs/BACKBONE-REWARD…``."""
    parts = [config.backbone.name or "run", *(item.name for item in config.rewards)]
    return Path("runs") / "-".join(parts)


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
    from vader_core.estimate import memory_facts

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


def train(request: Request, registry: Registry, listener: Listener | None = None) -> dict[str, Any]:
    """Run a training to its end and write its report.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        VaderError: Anything that cannot be done, before anything heavy where possible.
        StoppedError: A signal asked to stop; the checkpoint is written.
    """
    listener = listener or Silence()
    assembly = prepare(request.config, registry)
    require_trainable(assembly)
    accelerator = make_accelerator(assembly.config, None)
    run = _open(request, assembly.config, listener) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    try:
        if run is not None:
            accelerator = make_accelerator(assembly.config, run)
            accelerator.init_trackers("vader")
            listener.plan(plan_facts(assembly, accelerator.num_processes))
        place = _checkpoint_to_continue(request, listener)
        load_parts(assembly, lambda: encode_up_front(assembly, accelerator.num_processes))
        trainer = Trainer(assembly, run, accelerator, listener)
        if place is not None:
            trainer.restore(read_checkpoint(place))
        if run is not None and request.resume:
            run.cut_metrics(trainer.step)
        summary = trainer.fit()
        if run is not None:
            from vader_core.report import write_report

            write_report(run.folder)
        return summary
    finally:
        if run is not None:
            run.release()


#: Texts that the encoder is given at once.
_TEXTS_AT_ONCE = 16


def encode_up_front(assembly: Assembly, processes: int) -> None:
    """Encode every prompt the run will ask for, then let the text encoder leave the device.

    Prompts are a pure function of the index, so all of them are known; each distinct text is encoded once.

    Args:
        assembly: With the backbone loaded.
        processes: How many will train.
    """
    trainer = assembly.config.trainer
    count = trainer.max_steps * trainer.accumulate * trainer.batch_size * processes
    prompts = assembly.draw_prompts(list(range(count)))
    if trainer.validation_prompts:
        prompts += [pair.prompt for pair in validation_pairs(assembly)]
    if trainer.evaluation_pairs:
        prompts += [pair.prompt for pair in evaluation_pairs(assembly, trainer.evaluation_pairs)]
    distinct = list({(prompt.text, prompt.negative): prompt for prompt in prompts}.values())
    for start in range(0, len(distinct), _TEXTS_AT_ONCE):
        assembly.backbone.encode_text(distinct[start : start + _TEXTS_AT_ONCE])
    assembly.backbone.release_text_encoder()


def _open(request: Request, config: RunConfig, listener: Listener) -> Run:
    if not request.resume:
        return Run.create(request.out, config, overwrite=request.overwrite)
    run = Run.open(request.out)
    try:
        different = changes(run.config(), config)
        if different and not request.allow_changes:
            raise VaderError(
                f"--resume {request.out}: the configuration is not the run's own: {'; '.join(different)}. "
                "Leave the changes out, or give --allow-changes"
            )
        if different:
            from vader_core.run.layers import to_yaml

            listener.say("continuing with changes: " + "; ".join(different))
            run.write("config.yaml", to_yaml(config))
    except BaseException:
        run.release()
        raise
    return run


def _checkpoint_to_continue(request: Request, listener: Listener) -> Path | None:
    if not request.resume:
        return None
    place, faults = newest_whole(request.out / "checkpoints")
    for wrong in faults:
        listener.say(f"checkpoint passed over: {wrong}")
    if place is None:
        listener.say(f"{request.out} has no whole checkpoint: starting from step 0")
    else:
        listener.say(f"continuing from {place}")
    return place


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary for a person, one line a reward."""
    lines = [
        f"{summary['steps']} steps, {summary['reward_queries']} reward queries, "
        f"{summary['train_seconds']:.1f} s of training"
    ]
    for name, found in summary.get("evaluation", {}).items():
        low, high = found["ci95"]
        lines.append(
            f"{name}: {found['base']:.4g} -> {found['tuned']:.4g} "
            f"({found['difference']:+.4g}, 95 % [{low:+.4g}, {high:+.4g}], wins {found['win_rate']:.0%})"
        )
    return lines
