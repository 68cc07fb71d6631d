"""A trainer from the parts of a run."""

from __future__ import annotations

from vader_core.assembly.parts import Assembly
from vader_core.run.directory import Run
from vader_core.run.tracking import Listener
from vader_core.training.average import Average
from vader_core.training.batches import PromptBatches
from vader_core.training.journal import Journal
from vader_core.training.processes import SingleProcess
from vader_core.training.trainer import Trainer
from vader_core.training.validator import Validator


def make_trainer(
    assembly: Assembly, processes: SingleProcess, run: Run | None, listener: Listener | None = None
) -> Trainer:
    """The trainer of a loaded assembly.

    Args:
        assembly: Loaded, with an objective.
        processes: One or several.
        run: The run directory on the first process; ``None`` elsewhere, and where nothing is to be written.
        listener: Hears of progress.
    """
    assert assembly.objective is not None
    trainer = assembly.config.trainer
    journal = Journal(processes, run, listener, assembly.config.run.trackers)
    average = Average(assembly.model.tuning, trainer.ema)
    batches = PromptBatches(
        assembly.draw_prompts, assembly.geometry, trainer.seed, trainer.batch_size, trainer.accumulate
    )
    return Trainer(
        assembly.model,
        assembly.objective,
        batches,
        processes,
        assembly.config,
        Validator(assembly, processes, average, journal),
        average,
        journal,
    )
