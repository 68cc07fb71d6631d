"""Where one stage ends and the next begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vader_core.errors import VaderError
from vader_core.method.objective import Batch, Batches
from vader_core.run.checkpoint import Checkpoint
from vader_core.run.config import SeamSection
from vader_core.training.trainer import Trainer


@dataclass(frozen=True)
class LaterBatches:
    """Batches of a stage: samples and noise are counted on from the stages before it.

    Args:
        parts: The batches.
        before: Optimizer steps of the stages before.
    """

    parts: Batches
    before: int

    def at(self, step: int, micro: int, rank: int, world: int) -> Mapping[str, Batch]:
        """The batches of one micro-step of the stage."""
        return self.parts.at(step + self.before, micro, rank, world)


def take_over(trainer: Trainer, checkpoint: Checkpoint, seam: SeamSection) -> None:
    """Let a stage begin where the one before ended, as its seam says.

    Args:
        trainer: Of the stage, at its step 0.
        checkpoint: The last one of the stage before.
        seam: What is taken over beside the weights.

    Raises:
        VaderError: The checkpoint was made with another adapter or optimizer, or keeps no average.
    """
    tuning, average = trainer.model.tuning, trainer.average
    tuning.load(checkpoint.place)  # what is kept: the average, where there is one
    kept = tuning.snapshot()
    trained = checkpoint.tensors.get("trained")
    if trained is not None and seam.weights == "trained":
        tuning.restore(trained)
    if seam.weights == "average" and trained is None:
        raise VaderError(f"{checkpoint.place} holds no average to begin with: set trainer.ema in its stage")
    keeps = seam.average == "kept" or (seam.average is None and seam.optimizer == "kept")
    average.set(kept if keeps else tuning.snapshot())
    if seam.optimizer == "kept":
        trainer.updates.restore(dict(checkpoint.tensors))
