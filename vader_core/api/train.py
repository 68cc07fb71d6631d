"""A whole training run: plan it, begin it, or continue it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vader_core.api.plan import plan_facts, require_trainable
from vader_core.assembly.loading import load_parts
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.errors import VaderError
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import validation_pairs
from vader_core.registry import Registry
from vader_core.run.checkpoint import newest_whole, read_checkpoint
from vader_core.run.config import RunConfig
from vader_core.run.directory import Run
from vader_core.run.layers import changes
from vader_core.run.tracking import Listener, Silence
from vader_core.training.processes import make_accelerator
from vader_core.training.trainer import Trainer


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
