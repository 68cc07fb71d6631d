"""A trainer from the parts of a run."""

from __future__ import annotations

import os

from vader_core.assembly.parts import Assembly
from vader_core.method.objective import Batches
from vader_core.run.directory import Run
from vader_core.run.stages import ALONE, Place
from vader_core.run.tracking import Listener
from vader_core.training.average import Average
from vader_core.training.batches import JoinedBatches, PromptBatches
from vader_core.training.journal import Journal
from vader_core.training.processes import SingleProcess
from vader_core.training.seam import LaterBatches
from vader_core.training.trainer import Trainer
from vader_core.training.validator import Validator
from vader_core.training.video_batches import VideoBatches


def make_trainer(
    assembly: Assembly,
    processes: SingleProcess,
    run: Run | None,
    listener: Listener | None = None,
    place: Place = ALONE,
) -> Trainer:
    """The trainer of a loaded assembly.

    Args:
        assembly: Loaded, with an objective.
        processes: One or several.
        run: The run directory on the first process; ``None`` elsewhere, and where nothing is to be written.
        listener: Hears of progress.
        place: Where the run stands among the stages of another.
    """
    assert assembly.objective is not None
    trainer = assembly.config.trainer
    journal = Journal(processes, run, listener, assembly.config.run.trackers)
    average = Average(assembly.model.tuning, trainer.ema)
    batches = LaterBatches(make_batches(assembly, journal), place.before)
    return Trainer(
        assembly.model,
        assembly.objective,
        batches,
        processes,
        assembly.config,
        Validator(assembly, processes, average, journal),
        average,
        journal,
        place,
    )


def shared_cores(most: int = 8) -> int:
    """The processor's cores that this process may use, shared by the processes of the machine."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, cores // here))


def make_batches(assembly: Assembly, journal: Journal) -> Batches:
    """What each micro-step learns from: prompts, clips, or both.

    Args:
        assembly: With an objective.
        journal: Told of files that cannot be read.
    """
    assert assembly.objective is not None
    trainer, data = assembly.config.trainer, assembly.config.data
    parts: list[Batches] = []
    if assembly.objective.needs != {"videos"}:
        parts.append(
            PromptBatches(
                assembly.draw_prompts,
                assembly.geometry,
                trainer.seed,
                trainer.batch_size,
                trainer.accumulate,
            )
        )
    if "videos" in assembly.objective.needs:
        parts.append(
            VideoBatches(
                assembly.videos.plan,
                assembly.videos.reader,
                size_of=assembly.backbone.video_size,
                finished=assembly.with_negative,
                seed=trainer.seed,
                accumulate=trainer.accumulate,
                workers=data.workers or shared_cores(),
                limit=data.unreadable_limit,
                say=journal.say,
            )
        )
    return parts[0] if len(parts) == 1 else JoinedBatches(parts)
