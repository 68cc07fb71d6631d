"""A whole training run: begin it, or continue it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vader_core import __version__
from vader_core.api.configure import complete
from vader_core.api.plan import plan_facts, require_trainable
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import load_parts, related_judges
from vader_core.assembly.parallel import in_processes
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.assembly.trial import try_rewards
from vader_core.data.latents import TEXT
from vader_core.errors import VaderError
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import own_share, validation_pairs
from vader_core.paths import entered
from vader_core.progress import counted, unseen
from vader_core.prompts import Prompt
from vader_core.registry import Registry, load_registry
from vader_core.report import write_report
from vader_core.run.checkpoint import newest_whole, prune, read_checkpoint, restoring, step_of
from vader_core.run.config import RunConfig, validated
from vader_core.run.directory import Run, is_run
from vader_core.run.layers import changes, to_yaml
from vader_core.run.tracking import Listener, Silence, require_trackers
from vader_core.training.batches import own_samples
from vader_core.training.processes import SingleProcess, join_processes
from vader_core.training.setup import make_trainer
from vader_core.values import read_document

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
    resume: bool | Literal["auto"] = False,
    allow_changes: bool = False,
    registry: Registry | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Run a training to its end and write its report.

    In a process that a launcher started, it is trained together with the others.

    Args:
        config: What was asked for.
        out: The run directory; of an existing run where ``resume`` is set.
        overwrite: Replace an existing run.
        resume: Continue the run in ``out``; ``auto``: where there is one, else begin it.
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
    processes = join(assembly)
    agree(processes, assembly.config, folder)
    assembly.mesh = processes.mesh
    with processes.together():
        run = None
        opening = _Opening(folder, overwrite=overwrite, resume=resume, allow_changes=allow_changes)
        opening.world = processes.layout.world
        if processes.first:
            run = opening.run(assembly.config, listener)
        try:
            continued = processes.from_first(opening.continued)
            assembly.config = in_processes(assembly.config, processes.layout)
            with process_switches(assembly.config):
                return _train(
                    assembly, folder, run, processes, listener, resume=continued, changed=allow_changes
                )
        finally:
            if run is not None:
                run.release()


def join(assembly: Assembly) -> SingleProcess:
    """The processes that train the run together."""
    config = assembly.config
    return join_processes(
        assembly.device,
        loss_scale=config.trainer.precision == "fp16",
        shard=config.parallel.shard,
        context=config.parallel.context,
        timeout=60 * config.parallel.timeout,
    )


def agree(processes: SingleProcess, config: RunConfig, folder: Path) -> None:
    """Refuse processes that were started with different words: they would go on apart, or wait for ever.

    Raises:
        VaderError: Naming what differs.
    """
    for rank, (theirs, version, place) in enumerate(
        processes.gather((to_yaml(config), __version__, str(folder)))
    ):
        if rank == 0:
            first = (theirs, version, place)
            continue
        different = changes(validated(read_document(first[0])), validated(read_document(theirs)))
        if version != first[1]:
            different.append(f"vader-core: {first[1]} -> {version}")
        if place != first[2]:
            different.append(f"--out: {first[2]} -> {place}")
        if different:
            raise VaderError(
                f"the processes were started with different options, process {rank} not as process 0: "
                f"{'; '.join(different)}. Start all of them with one command"
            )


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
        listener.plan(plan_facts(assembly, processes.count))
        if assembly.config.data.source is not None:
            listener.say(assembly.videos.summary.table())
    assembly.progress("loading the model", 0, 0)
    place, done = _where_to_begin(
        assembly.config, folder, processes, listener, resume=resume, changed=changed
    )
    if done:
        listener.say(
            f"{folder} is finished: nothing is left to do. For more steps give --max-steps N (more than "
            f"{done['steps']}); vader evaluate {folder} compares it anew"
        )
        if run is not None:
            write_report(folder)
        return done
    load_parts(assembly, lambda: encode_up_front(assembly, processes))
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


def _where_to_begin(
    config: RunConfig,
    folder: Path,
    processes: SingleProcess,
    listener: Listener,
    *,
    resume: bool,
    changed: bool,
) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to continue from, and the summary of a run that is finished.

    One process looks and all follow: on a shared file system they could see different folders.
    """
    if not resume:
        return None, {}
    found: tuple[Path | None, dict[str, Any]] = None, {}
    if processes.first:
        place = _checkpoint_to_continue(folder, listener)
        found = place, {} if changed or place is None else _finished(folder, place, config)
    found = processes.from_first(found)
    return found


def encode_up_front(assembly: Assembly, processes: SingleProcess) -> None:
    """Encode every prompt that this process will ask for, then let the text encoder leave the device.

    Prompts are a pure function of the index, so all of them are known; each distinct text is encoded once.

    Args:
        assembly: With the backbone loaded.
        processes: Say which samples are this one's.
    """
    trainer, validation = assembly.config.trainer, assembly.config.validation
    cached = assembly.config.data.source or ""
    if cached.startswith("cache:"):
        assembly.backbone.text_cache.directory = Path(cached.removeprefix("cache:")).expanduser() / TEXT
    needs = assembly.objective.needs if assembly.objective is not None else frozenset()
    # An encoder in pieces is everyone's work at every text.
    here = (0, 1) if assembly.config.parallel.shard_text_encoders else processes.here
    prompts: list[Prompt] = []
    if needs != {"videos"}:
        rank, world = here
        rounds = range(trainer.max_steps * trainer.accumulate)
        size = trainer.batch_size * (processes.count if world == 1 else 1)
        mine = [index for one in rounds for index in own_samples(one, rank, world, size)]
        prompts += assembly.draw_prompts(mine)
    if "videos" in needs:
        prompts += assembly.with_negative(list(assembly.videos.source.clips()))
        prompts += assembly.with_negative([prompt for prompt, _ in assembly.videos.held_out])
    if validation.prompts:
        prompts += [pair.prompt for pair in own_share(validation_pairs(assembly), *here)[0]]
    if validation.evaluation_pairs:
        pairs = evaluation_pairs(assembly, validation.evaluation_pairs)
        prompts += [pair.prompt for pair in own_share(pairs, *here)[0]]
    distinct = list({(prompt.text, prompt.negative): prompt for prompt in prompts}.values())
    for start in range(0, len(distinct), _TEXTS_AT_ONCE):
        assembly.progress("encoding texts", start, len(distinct))
        assembly.backbone.encode_text(distinct[start : start + _TEXTS_AT_ONCE])
    assembly.backbone.release_text_encoder()


class _Opening:
    """How the run directory is opened: new, replaced or continued."""

    def __init__(
        self, folder: Path, *, overwrite: bool, resume: bool | Literal["auto"], allow_changes: bool
    ) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.allow_changes = allow_changes
        #: How many processes there are.
        self.world = 1
        self.continued = is_run(folder) if resume == "auto" else bool(resume)

    def run(self, config: RunConfig, listener: Listener) -> Run:
        if not self.continued:
            return Run.create(self.folder, config, overwrite=self.overwrite, processes=self.world)
        run = Run.open(self.folder)
        try:
            self._agree(run, config, listener)
            self._agree_on_processes(run, config, self.world, listener)
        except BaseException:
            run.release()
            raise
        return run

    def _agree_on_processes(self, run: Run, config: RunConfig, world: int, listener: Listener) -> None:
        """Another number of processes is another batch, unless the global batch is fixed."""
        before = run.processes()
        if before == world:
            return
        if config.trainer.global_batch is None and not self.allow_changes:
            raise VaderError(
                f"--resume {self.folder}: the run had {before} processes, and now there are {world}: each "
                f"step would see another batch. Use --num-processes {before}, or give --allow-changes; with "
                "trainer.global_batch the number may change"
            )
        listener.say(f"continuing with {world} processes; before there were {before}")
        run.record(config, world)

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
            run.record(config, run.processes())


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
