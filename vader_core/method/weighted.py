"""A weighted sum of objectives is an objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.geometry import Geometry
from vader_core.method.mixture import Mixture
from vader_core.method.model import Model
from vader_core.method.objective import Backward, Batch, Objective, Processes, StepResult
from vader_core.method.segments import Segments


@dataclass(frozen=True)
class WeightedTerm:
    """One objective of a sum.

    Args:
        name: As registered; its random numbers are scoped by it.
        weight: Factor of its loss.
        objective: The objective.
    """

    name: str
    weight: float
    objective: Objective


class WeightedSum(Objective):
    """Several objectives, each over its own batches.

    Each takes the batch of its kind (prompts or videos), random numbers within its name, a backward pass
    scaled by its weight, and only its own first ``updates``.

    Args:
        terms: One or more; one alone keeps the batch's own random numbers.
    """

    name: ClassVar[str] = "sum"

    def __init__(self, terms: Sequence[WeightedTerm]) -> None:
        self.terms = tuple(terms)
        self.updates = max(term.objective.updates for term in terms)
        self.queries = sum(term.objective.queries for term in terms)
        made = [term.objective.segments for term in terms if term.objective.segments != Segments()]
        self.segments = made[0] if made else Segments()

    @staticmethod
    def of(terms: Mapping[str, tuple[float, Objective]]) -> WeightedSum:
        """The sum of named objectives with their weights."""
        return WeightedSum([WeightedTerm(name, weight, made) for name, (weight, made) in terms.items()])

    @property
    def needs(self) -> frozenset[str]:
        """All that one of them needs."""
        return frozenset().union(*(term.objective.needs for term in self.terms))

    def defaults(self, backbone: Backbone, num_steps: int) -> Mapping[str, Any]:
        """A sum has no options of its own."""
        return {}

    def check(self, model: Model, geometry: Geometry) -> None:
        """Each checks itself."""
        for term in self.terms:
            term.objective.check(model, geometry)

    def use(self, rewards: Mixture) -> None:
        """Each that needs rewards gets them."""
        for term in self.terms:
            if term.objective.needs & {"rewards", "scores"}:
                term.objective.use(rewards)

    def prepare(self, model: Model, batches: Sequence[Any], processes: Processes) -> list[Any]:
        """Each prepares its own batches: a list per micro-step, one value per term."""
        columns = []
        for term in self.terms:
            own: list[Batch] = [batch[term.objective.batch_kind] for batch in batches]
            if len(self.terms) > 1:
                own = [batch.within(term.name) for batch in own]
            columns.append(term.objective.prepare(model, own, processes))
        return [list(row) for row in zip(*columns, strict=True)]

    def step(self, model: Model, prepared: Sequence[Any], backward: Backward, update: int) -> StepResult:
        """Each takes its step; the results are one."""
        results = [
            (term, term.objective.step(model, own, _scaled(backward, term.weight), update))
            for term, own in zip(self.terms, prepared, strict=True)
            if update < term.objective.updates
        ]
        if len(results) == 1:
            term, only = results[0]
            return only if term.weight == 1.0 else replace(only, loss=only.loss * term.weight)
        figures: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        for term, result in results:
            figures |= {f"{term.name}_loss": result.loss, **result.figures}
            scores |= result.scores
        return StepResult(
            loss=torch.stack([result.loss * term.weight for term, result in results]).sum(),
            scores=scores,
            figures=figures,
            reward_queries=sum(result.reward_queries for _, result in results),
            steps=frozenset().union(*(result.steps for _, result in results)),
            frames=tuple(sorted({frame for _, result in results for frame in result.frames})),
        )

    def after_update(self, model: Model, step: int) -> None:
        """Each follows."""
        for term in self.terms:
            term.objective.after_update(model, step)

    def judge(self, model: Model, batches: Sequence[Batch]) -> Mapping[str, float]:
        """What those that learn from clips say."""
        found: dict[str, float] = {}
        for term in self.terms:
            if term.objective.batch_kind == "videos":
                found |= term.objective.judge(model, batches)
        return found

    def save(self, folder: Path) -> None:
        """Each writes its state into a folder of its name."""
        for term in self.terms:
            own = folder / term.name
            own.mkdir(parents=True, exist_ok=True)
            term.objective.save(own)
            if not any(own.iterdir()):
                own.rmdir()

    def load(self, folder: Path) -> None:
        """Each reads its own."""
        for term in self.terms:
            term.objective.load(folder / term.name)


def _scaled(backward: Backward, weight: float) -> Backward:
    if weight == 1.0:
        return backward
    return lambda loss: backward(loss * weight)
