"""A whole training run: begin it, or continue it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vader_core.api.configure import complete
from vader_core.api.plan import plan_facts, require_trainable
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import load_parts, related_judges
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.assembly.trial import try_rewards
from vader_core.data.latents import TEXT
from vader_core.errors import VaderError
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import validation_pairs
from vader_core.paths import entered
from vader_core.progress import counted, unseen
from vader_core.prompts import Prompt
from vader_core.registry import Registry, load_registry
from vader_core.report import write_report
from vader_core.run.checkpoint import newest_whole, prune, read_checkpoint, restoring, step_of
from vader_core.run.config import RunConfig
from vader_core.run.directory import Run
from vader_core.run.layers import changes
from vader_core.run.names import ABOUT
from vader_core.run.tracking import Listener, Silence, require_trackers
from vader_core.training.processes import SingleProcess, join_processes
from vader_core.training.setup import make_trainer
from vader_core.training.signals import StoppedError as StoppedError

#: Texts that the encoder is given at once.
_TEXTS_AT_ONCE = 16


def default_out(config: RunConfig) -> Path:
    """``runs/BACKBONE-REWARD…``, ``runs/BACKBONE-data`` where clips are learned from."""
    parts = [config.backbone.name or "run", *(item.name for item in config.reward)]
    if config.data.source is not None:
        parts.append("data")
    return Path("runs") / "-".join(parts)


def train(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    allow_changes: bool = False,
    registry: Registry | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Run a training to its end and write its report.

    Args:
        config: What was asked for.
        out: The run directory; of an existing run where ``resume`` is set.
        overwrite: Replace an existing run.
        resume: Continue the run in ``out``.
        allow_changes: Continue although the configuration differs.
        registry: Where the components come from; the installed plugins by default.
        listener: Hears of progress; ``phase`` is optional.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        VaderError: Anything that cannot be done, before anything heavy where possible.
        StoppedError: A signal asked to stop; the checkpoint is written.
    """
    registry, listener = registry or load_registry(), listener or Silence()
    folder = default_out(config) if out is None else entered(out)
    assembly = prepare(complete(config, registry), registry)
    require_trainable(assembly)
    assembly.progress = getattr(listener, "phase", unseen)  # who only hears of records need not have it
    require_trackers(assembly.config.run.trackers)
    processes = join_processes(assembly.device, loss_scale=assembly.config.trainer.precision == "fp16")
    run = None
    if processes.first:
        opened = _Opening(folder, overwrite=overwrite, resume=resume, allow_changes=allow_changes)
        run = opened.run(assembly.config, listener)
    processes.wait()
    try:
        with process_switches(assembly.config):
            return _train(assembly, folder, run, processes, listener, resume=resume, changed=allow_changes)
    finally:
        if run is not None:
            run.release()


def _train(
    assembly: Assembly,
    folder: Path,
    run: Run | None,
    processes: SingleProcess,
    listener: Listener,
    *,
    resume: bool,
    changed: bool,
) -> dict[str, Any]:
    if run is not None:
        run.write(ABOUT, json.dumps(about(assembly), indent=1) + "\n")
        listener.plan(plan_facts(assembly, processes.count))
        if assembly.config.data.source is not None:
            listener.say(assembly.videos.summary.table())
    assembly.progress("loading the model", 0, 0)
    place = _checkpoint_to_continue(folder, listener) if resume else None
    if place is not None and not changed and (summary := _finished(folder, place, assembly.config)):
        listener.say(
            f"{folder} is finished: nothing is left to do. For more steps give --max-steps N (more than "
            f"{summary['steps']}); vader evaluate {folder} compares it anew"
        )
        if run is not None:
            write_report(folder)
        return summary
    load_parts(assembly, lambda: encode_up_front(assembly, processes.count))
    assembly.progress("trying the rewards", 0, 0)
    try_rewards(assembly)
    if run is not None:
        for warning in related_judges(assembly):
            listener.say(warning)
    trainer = make_trainer(assembly, processes, run, listener)
    if place is not None:
        with restoring(place):
            trainer.restore(read_checkpoint(place))
    if run is not None and resume:
        run.cut_metrics(trainer.step)
        prune(run.checkpoints, assembly.config.run.keep, newest=trainer.step)
    summary = trainer.fit()
    if run is not None:
        assembly.progress("writing the report", 0, 0)
        write_report(run.folder)
    return summary


def about(assembly: Assembly) -> dict[str, str]:
    """A line on each component of a run, by its name, for whoever reads its page."""
    config, get = assembly.config, assembly.registry.get
    named = [get("backbone", str(config.backbone.name))]
    names = [item.name for item in config.reward] + [item.name for item in config.monitor]
    named += [get("reward", name) for name in names]
    return {component.name: component.summary for component in named}


def encode_up_front(assembly: Assembly, processes: int) -> None:
    """Encode every prompt the run will ask for, then let the text encoder leave the device.

    Prompts are a pure function of the index, so all of them are known; each distinct text is encoded once.

    Args:
        assembly: With the backbone loaded.
        processes: How many will train.
    """
    trainer, validation = assembly.config.trainer, assembly.config.validation
    cached = assembly.config.data.source or ""
    if cached.startswith("cache:"):
        assembly.backbone.text_cache.directory = Path(cached.removeprefix("cache:")).expanduser() / TEXT
    needs = assembly.objective.needs if assembly.objective is not None else frozenset()
    prompts: list[Prompt] = []
    if needs != {"videos"}:
        count = trainer.max_steps * trainer.accumulate * trainer.batch_size * processes
        prompts += assembly.draw_prompts(list(range(count)))
    if "videos" in needs:
        prompts += assembly.with_negative(list(assembly.videos.source.clips()))
        prompts += assembly.with_negative([prompt for prompt, _ in assembly.videos.held_out])
    if validation.prompts:
        prompts += [pair.prompt for pair in validation_pairs(assembly)]
    if validation.evaluation_pairs:
        prompts += [pair.prompt for pair in evaluation_pairs(assembly, validation.evaluation_pairs)]
    distinct = list({(prompt.text, prompt.negative): prompt for prompt in prompts}.values())
    for start in range(0, len(distinct), _TEXTS_AT_ONCE):
        assembly.progress("encoding texts", start, len(distinct))
        assembly.backbone.encode_text(distinct[start : start + _TEXTS_AT_ONCE])
    assembly.backbone.release_text_encoder()


class _Opening:
    """How the run directory is opened: new, replaced or continued."""

    def __init__(self, folder: Path, *, overwrite: bool, resume: bool, allow_changes: bool) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.resume, self.allow_changes = resume, allow_changes

    def run(self, config: RunConfig, listener: Listener) -> Run:
        if not self.resume:
            return Run.create(self.folder, config, overwrite=self.overwrite)
        run = Run.open(self.folder)
        try:
            self._agree(run, config, listener)
        except BaseException:
            run.release()
            raise
        return run

    def _agree(self, run: Run, config: RunConfig, listener: Listener) -> None:
        """Refuse a configuration that is not the run's own, unless changes are allowed."""
        edited = changes(run.recorded(), run.config())
        different = changes(run.recorded(), config)
        longer = config.trainer.max_steps > run.recorded().trainer.max_steps
        if len(different) == 1 and longer and different[0].startswith("trainer.max_steps:"):
            listener.say(f"going on for longer: {different[0]}")
            run.record(config)
            return
        if different and not self.allow_changes:
            where = "config.yaml was edited since the run began" if edited else "asked for are other values"
            raise VaderError(
                f"--resume {self.folder}: the configuration is not the run's own ({where}): "
                f"{'; '.join(different)}. Leave the changes out, or give --allow-changes"
            )
        if different:
            listener.say("continuing with changes: " + "; ".join(different))
            run.record(config)


def _finished(folder: Path, place: Path, config: RunConfig) -> dict[str, Any]:
    """The summary of a run whose last step and evaluation are done; empty where something is left to do."""
    summary = Run(folder).summary()
    return summary if summary.get("steps") == step_of(place) == config.trainer.max_steps else {}


def _checkpoint_to_continue(folder: Path, listener: Listener) -> Path | None:
    place, faults = newest_whole(folder / "checkpoints")
    for wrong in faults:
        listener.say(f"checkpoint passed over: {wrong}")
    if place is None:
        listener.say(f"{folder} has no whole checkpoint: starting from step 0")
    else:
        listener.say(f"continuing from {place}")
    return place


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary for a person, one line per reward."""
    lines = [
        f"{counted(summary['steps'], 'step')}, {counted(summary['reward_queries'], 'reward query')}, "
        f"{summary['train_seconds']:.1f} s of training"
    ]
    losses = summary.get("held_out_loss")
    if losses:
        base, tuned = losses["base"]["mean"], losses["tuned"]["mean"]
        lines.append(f"held-out loss: {base:.4g} -> {tuned:.4g} ({tuned - base:+.4g})")
    for name, found in summary.get("evaluation", {}).items():
        low, high = found["ci95"]
        lines.append(
            f"{name}: {found['base']:.4g} -> {found['tuned']:.4g} "
            f"({found['difference']:+.4g}, 95 % [{low:+.4g}, {high:+.4g}], wins {found['win_rate']:.0%})"
        )
    return lines
