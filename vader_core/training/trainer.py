"""The loop around an update: accumulate, step, record, validate, checkpoint, stop."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vader_core.device import out_of_memory_named, peak_gib, reset_peak
from vader_core.errors import DivergedError, VaderError
from vader_core.method.model import Model
from vader_core.method.objective import Batches, StepResult
from vader_core.method.weighted import WeightedSum
from vader_core.parallel.whole import whole_tree
from vader_core.run.checkpoint import (
    Checkpoint,
    begin_checkpoint,
    check_ranks,
    finish_checkpoint,
    prune,
    rank_folder,
    save_rank,
    unfinished,
)
from vader_core.run.config import RunConfig
from vader_core.run.stages import ALONE, Place
from vader_core.training.average import Average
from vader_core.training.journal import Journal
from vader_core.training.optimizer import Updates, learning_rate
from vader_core.training.pauses import short_pauses
from vader_core.training.processes import SingleProcess
from vader_core.training.signals import Asked, StoppedError, stop_signals
from vader_core.training.validator import Validator

#: An alarm under ``guard: adapt`` goes back to the best weights and multiplies the learning rate by this.
ADAPT_FACTOR = 0.5
#: A loss scaler that begins too high skips this many steps before it has found its scale.
SCALER_PATIENCE = 16
WITHOUT_AVERAGE = "the checkpoint was written without trainer.ema, so averages cannot be continued from it"
WITHOUT_BEST = (
    "the checkpoint was written without validation.guard=adapt, so it holds no best weights to go back to: "
    "leave the guard off, or use --guard stop"
)


class Trainer:
    """Runs an objective's updates and keeps the run directory true.

    Args:
        model: Loaded, with what learns.
        objective: What an update minimises.
        batches: What each micro-step learns from.
        processes: One or several.
        config: The complete configuration.
        validator: Judges the model; shares ``average``.
        average: What is evaluated and kept.
        journal: Where records go.
        place: Where the run stands among the stages of another.
    """

    def __init__(  # noqa: PLR0913 - the parts of a run
        self,
        model: Model,
        objective: WeightedSum,
        batches: Batches,
        processes: SingleProcess,
        config: RunConfig,
        validator: Validator,
        average: Average,
        journal: Journal,
        place: Place = ALONE,
    ) -> None:
        self.place = place
        self.model, self.objective, self.batches = model, objective, batches
        self.processes, self.validator, self.average, self.journal = processes, validator, average, journal
        self.config, self.kept = config.trainer, config.run
        self.guard = config.validation.guard
        self.updates = Updates(model.tuning, config.trainer, processes)
        self.step = 0
        self.reward_queries = 0
        self.train_seconds = 0.0
        self.skipped = 0
        self.nonfinite_in_a_row = 0
        self.lr_factor = 1.0
        self.last_checkpoint: str | None = None
        self.last_loss = float("nan")
        self._saved_at: int | None = None

    # -- the run -----------------------------------------------------------------------------------------

    def fit(self) -> dict[str, Any]:
        """Train to the last step, validate, evaluate, and return the summary.

        Raises:
            StoppedError: A signal asked to stop; the checkpoint is written.
            DivergedError: Too many non-finite steps in a row, none that was finite, or weights that are not.
        """
        with stop_signals(self.journal.say) as asked, short_pauses(self.processes.device):
            if self.step == 0:
                self.validator.judge(0)
            while self.step < self.config.max_steps:
                self.train_step()
                if self._after_step(asked):
                    break
            self._save()
        _refuse_nothing_learned(self.step, self.skipped)
        return self._finish()

    def train_step(self) -> None:
        """One optimizer step: its batches, and as many updates as the objective takes from them."""
        begun = time.perf_counter()
        reset_peak(self.processes.device)
        rate = learning_rate(self.config, self.step, self.place) * self.lr_factor
        self.updates.set_rate(rate)
        with out_of_memory_named("training"):
            accumulated = range(self.config.accumulate)
            batches = [self.batches.at(self.step, micro, *self.processes.here) for micro in accumulated]
            prepared = self.objective.prepare(self.model, batches, self.processes)
            rounds: list[list[StepResult]] = []
            norms: list[float | None] = []
            for update in range(self.objective.updates):
                with self.updates.update() as backward:
                    rounds.append(
                        [self.objective.step(self.model, one, backward, update) for one in prepared]
                    )
                norms.append(self.updates.norm)
                if self.updates.norm is None:
                    break
                self.average.update()
                self.objective.after_update(self.model, self.step)
        self.step += 1
        seconds = time.perf_counter() - begun
        self.train_seconds += seconds
        queries = sum(result.reward_queries for results in rounds for result in results)
        self.reward_queries += queries * self.processes.count
        self._record(rounds[0], norms, rate, seconds)

    def _after_step(self, asked: Asked) -> bool:
        """Validate and checkpoint where due; whether the guard stops the run."""
        alarms: Sequence[str] = ()
        if self.validator.due(self.step, last=self.step == self.config.max_steps):
            alarms = self.validator.judge(self.step).alarms
        if alarms and self.guard == "adapt":
            self._adapt()
        if self.kept.checkpoint_every and self.step % self.kept.checkpoint_every == 0:
            self._save()
        signum = self.processes.largest(asked.signum or 0)
        if signum:
            self._save()
            raise StoppedError(signum)
        if alarms and self.guard == "stop":
            best = self.validator.watch.best_step
            self.journal.say(f"guard: stopped at step {self.step}; the best adapter is of step {best}")
            return True
        return False

    def _adapt(self) -> None:
        """Go back to the best weights, with a lower learning rate and a fresh optimizer.

        A lower rate alone would not bring back what is lost.
        """
        self.lr_factor *= ADAPT_FACTOR
        self.model.tuning.restore(self.validator.best)
        self.average.set(self.validator.best)
        self.updates.forget()
        self.journal.say(
            f"guard: back to the adapter of step {self.validator.watch.best_step}; the learning rate is now "
            f"{self.lr_factor:g} of its schedule"
        )

    # -- the record --------------------------------------------------------------------------------------

    def _record(
        self, results: list[StepResult], norms: list[float | None], rate: float, seconds: float
    ) -> None:
        skipped = norms[-1] is None
        loss = self.processes.mean(torch.stack([result.loss.float() for result in results]).mean())
        self.last_loss = float(loss)
        self.journal.record(
            {
                "kind": "train",
                "step": self.step,
                "loss": self.last_loss,
                "grad_norm": float("nan") if norms[0] is None else norms[0],
                "learning_rate": rate,
                "seconds": seconds,
                "memory_gib": peak_gib(self.processes.device),
                "rewards": _means(results, "scores", self.processes),
                **_means(results, "figures", self.processes),
                "skipped": skipped,
                "reward_queries": self.reward_queries,
            }
        )
        self._count_nonfinite(skipped)

    def _count_nonfinite(self, skipped: bool) -> None:
        if not skipped:
            self.nonfinite_in_a_row = 0
            return
        self.skipped += 1
        self.nonfinite_in_a_row += 1
        patience = SCALER_PATIENCE if self.processes.scaler is not None else 0
        if self.nonfinite_in_a_row >= self.config.nonfinite_limit + patience:
            where = self.last_checkpoint or "none was written yet"
            raise DivergedError(
                f"{self.nonfinite_in_a_row} steps in a row had a loss or gradient that is not finite, so the "
                f"run stops; last good checkpoint: {where}. Lower --lr, use --precision fp32 or bf16, or "
                "another --gradient"
            )

    # -- keeping -----------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint of this step, unless it is there."""
        if self.journal.run is None and self.processes.layout.world == 1:
            return
        folder = self.processes.from_first(None if self.journal.run is None else self.journal.run.checkpoints)
        if folder is None or self._saved_at == self.step:
            return
        kept = self.model.tuning.collected(self.average.tensors)
        tensors = whole_tree(self._tensors(), keep=self.processes.first)
        if self.processes.first:
            beside = begin_checkpoint(folder, self.step)
            self.model.tuning.save(beside, kept)
        self.processes.wait()
        if self.processes.rank % self.processes.layout.context == 0:
            save_rank(self.objective.save, unfinished(folder, self.step), self.processes.here[0])
        self.processes.wait()
        if self.processes.first:
            place = finish_checkpoint(folder, self.step, tensors, self._position())
            self.last_checkpoint = str(place)
            prune(folder, self.kept.keep, newest=self.step)
        self._saved_at = self.step
        self.processes.wait()

    def _tensors(self) -> dict[str, Any]:
        found = self.updates.state()
        if self.average.tensors is not None:  # the average is what the checkpoint's adapter holds
            found["trained"] = dict(self.model.tuning.snapshot())
        if self.validator.best:
            found["best"] = dict(self.validator.best)
        return found

    def _position(self) -> dict[str, Any]:
        return {
            "reward_queries": self.reward_queries,
            "train_seconds": self.train_seconds,
            "skipped": self.skipped,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "lr_factor": self.lr_factor,
            "watch": self.validator.watch.state(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue exactly where ``checkpoint`` was written.

        Raises:
            VaderError: It was made with another adapter, objective or optimizer.
        """
        position, tensors = checkpoint.position, checkpoint.tensors
        self.step = self._saved_at = checkpoint.step
        self.reward_queries = int(position["reward_queries"])
        self.train_seconds = float(position["train_seconds"])
        self.skipped = int(position["skipped"])
        self.nonfinite_in_a_row = int(position["nonfinite_in_a_row"])
        self.lr_factor = float(position["lr_factor"])
        self.validator.watch.restore(position["watch"])
        self.model.tuning.load(checkpoint.place)
        check_ranks(checkpoint.place, self.processes.count)
        self.objective.load(rank_folder(checkpoint.place, self.processes.here[0]))
        if self.average.tensors is not None:
            trained = _held(tensors, "trained", WITHOUT_AVERAGE)
            self.average.set(self.model.tuning.snapshot())
            self.model.tuning.restore(trained)
        if self.guard == "adapt":
            self.validator.best = dict(_held(tensors, "best", WITHOUT_BEST))
        self.updates.restore(dict(tensors))

    # -- the end -----------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "train_seconds": self.train_seconds,
            "steps": self.step,
            "reward_queries": self.reward_queries,
            "skipped_steps": self.skipped,
            "best_step": self.validator.watch.best_step,
            **self.validator.compare(),
        }
        if self.journal.run is not None:
            self.journal.run.write_summary(summary)
        self.journal.close()
        return summary


def _held(tensors: Mapping[str, Any], name: str, lacking: str) -> Any:
    """What a checkpoint holds under ``name``.

    Raises:
        VaderError: It does not; in the words of ``lacking``.
    """
    if name not in tensors:
        raise VaderError(lacking)
    return tensors[name]


def _refuse_nothing_learned(steps: int, skipped: int) -> None:
    if steps and skipped == steps:
        raise DivergedError(
            f"none of the {steps} steps had a finite loss and gradient, so nothing was learned. Lower --lr, "
            "use --precision fp32 or bf16, or another --gradient"
        )


def _means(results: list[StepResult], kind: str, processes: SingleProcess) -> dict[str, float]:
    """Means over micro-steps and processes of what the results hold by name."""
    found = [getattr(result, kind) for result in results]
    return {
        name: float(processes.mean(torch.stack([one[name].float().mean() for one in found]).mean()))
        for name in found[0]
    }
