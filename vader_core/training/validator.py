"""Validation while training: sample, score, watch, write, keep the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vader_core.assembly.parts import Assembly
from vader_core.evaluation.comparison import as_json, evaluate
from vader_core.evaluation.validation import Scored, score_pairs, validation_pairs, write_samples
from vader_core.evaluation.watch import Verdict, Watch, statistics
from vader_core.run.checkpoint import keep_best
from vader_core.training.average import Average
from vader_core.training.held_out import HeldOut
from vader_core.training.journal import Journal
from vader_core.training.processes import SingleProcess

_NOTHING = Verdict(best=False, alarms=(), messages=())


class Validator:
    """Judges the model on held-out prompts.

    Args:
        assembly: Loaded.
        processes: Share the sampling and scoring; the first one's verdict goes to all.
        average: What is evaluated.
        journal: Where records go.
    """

    def __init__(
        self, assembly: Assembly, processes: SingleProcess, average: Average, journal: Journal
    ) -> None:
        self.assembly = assembly
        self.processes = processes
        self.average = average
        self.journal = journal
        self.settings = assembly.config.validation
        self.held_out = HeldOut(assembly)
        self.watch = Watch(self.settings.monitor_limit)
        #: The best weights so far, to go back to; kept where the guard adapts.
        self.best: dict[str, Tensor] = {}

    def due(self, step: int, *, last: bool) -> bool:
        """Whether a validation belongs after step ``step``."""
        return last or bool(self.settings.every and step % self.settings.every == 0)

    def judge(self, step: int) -> Verdict:
        """Sample, score and watch; the verdict is the same on every process."""
        if self.settings.prompts == 0 and not self.held_out.batches:
            return _NOTHING
        with self.average.in_the_model():
            seen = self._see()
        verdict: Verdict = self.processes.from_first(
            self._judge(step, seen) if self.processes.first else None
        )
        if verdict.best and step > 0:
            self._keep_best(step, seen)
        if verdict.best and self.settings.guard == "adapt":
            self.best = self.average.best_known()
        return verdict

    def _see(self) -> _Seen:
        """Sample and score, each process its share."""
        assembly = self.assembly
        pairs = validation_pairs(assembly) if self.settings.prompts else []
        held_out = self.held_out.losses(self.processes)
        if not pairs:
            return _Seen(held_out)
        mixtures = (assembly.rewards, assembly.monitors)
        scored = score_pairs(assembly, pairs, mixtures, measure_distance=True, processes=self.processes)
        return _Seen(held_out, scored, scored.mean(assembly.rewards), scored.mean(assembly.monitors))

    def _judge(self, step: int, seen: _Seen) -> Verdict:
        """Watch and write, on the first process."""
        watched = {_named(level): loss for level, loss in seen.held_out.items()}
        if seen.scored is not None:
            watched |= statistics(seen.scored.videos, self.settings.seeds)
            watched["base_distance"] = seen.scored.base_distance or 0.0
        verdict = self._verdict(step, seen.rewards, seen.monitors, seen.held_out)
        record: dict[str, Any] = {
            "kind": "validation",
            "step": step,
            "rewards": seen.rewards,
            "monitors": seen.monitors,
            "watch": watched,
            "alarms": list(verdict.alarms),
        }
        run = self.journal.run
        if run is not None and seen.scored is not None:
            folder = run.samples(step)
            write_samples(seen.scored, folder, self.assembly.geometry.fps)
            record["samples"] = str(folder.relative_to(run.folder))
        self.journal.record(record)
        for message in verdict.messages:
            self.journal.record({"kind": "alarm", "step": step, "message": message})
            self.journal.say(f"ALARM at step {step}: {message}")
        return verdict

    def _keep_best(self, step: int, seen: _Seen) -> None:
        tuning, run = self.assembly.model.tuning, self.journal.run
        kept = tuning.collected(self.average.tensors)
        if run is not None:
            facts = {"step": step, "rewards": seen.rewards, "monitors": seen.monitors}
            keep_best(run.checkpoints, lambda folder: tuning.save(folder, kept), facts)

    def _verdict(
        self,
        step: int,
        rewards: Mapping[str, float],
        monitors: Mapping[str, float],
        held_out: Mapping[str, float],
    ) -> Verdict:
        """By the rewards; without any, the best is what predicts the held-out clips best."""
        terms = self.assembly.rewards.terms
        if rewards:
            total = sum(term.weight * rewards[term.name] for term in terms)
        elif held_out and not terms:
            total = -held_out["mean"]
        else:
            return _NOTHING
        return self.watch.see(step, total, monitors)

    def compare(self) -> dict[str, Any]:
        """Base against tuned on held-out prompts, as the summary holds it; empty where none was asked for."""
        count, assembly, processes = self.settings.evaluation_pairs, self.assembly, self.processes
        found: dict[str, Any] = {}
        with self.average.in_the_model():
            if count:
                compared = evaluate(assembly, count, processes=processes)[1.0]
                held_out = assembly.prompts_held_out != 0
                found |= {"pairs": count, "held_out": held_out, "evaluation": as_json(compared)}
            if self.held_out.batches:
                tuned = self.held_out.losses(processes)
                with assembly.model.base():
                    base = self.held_out.losses(processes)
                found["held_out_loss"] = {"base": dict(base), "tuned": dict(tuned)}
        return found


@dataclass(frozen=True)
class _Seen:
    """What a validation saw, the same on every process but for the videos."""

    held_out: Mapping[str, float]
    scored: Scored | None = None
    rewards: Mapping[str, float] = field(default_factory=dict)
    monitors: Mapping[str, float] = field(default_factory=dict)


def _named(level: str) -> str:
    return "held_out_loss" if level == "mean" else f"held_out_loss_{level}"
