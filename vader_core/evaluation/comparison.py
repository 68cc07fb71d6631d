"""Base against tuned: the same held-out prompts, the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vader_core.assembly.parts import Assembly
from vader_core.evaluation.validation import Pair, Sharing, make_pairs, score_pairs
from vader_core.randomness import derive_seed

#: Resamples of the bootstrap interval.
RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """One reward, base against tuned.

    Args:
        base: Mean score of the base model.
        tuned: Mean score of the tuned model.
        difference: Mean of the paired differences.
        ci95: Its 95 % bootstrap interval over the pairs.
        win_rate: Share of pairs in which tuned is above base; a tie counts half.
    """

    base: float
    tuned: float
    difference: float
    ci95: tuple[float, float]
    win_rate: float


def compare(base: Tensor, tuned: Tensor, seed: int = 0) -> Comparison:
    """Compare paired scores [N]; the bootstrap resamples pairs, 2,000 times, from ``seed``."""
    difference = (tuned - base).double()
    generator = torch.Generator().manual_seed(derive_seed(seed, "bootstrap"))
    drawn = torch.randint(len(difference), (RESAMPLES, len(difference)), generator=generator)
    means = difference[drawn].mean(dim=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    wins = (difference > 0).double() + 0.5 * (difference == 0).double()
    return Comparison(
        base=float(base.mean()),
        tuned=float(tuned.mean()),
        difference=float(difference.mean()),
        ci95=(low, high),
        win_rate=float(wins.mean()),
    )


def evaluation_pairs(assembly: Assembly, count: int) -> list[Pair]:
    """``count`` pairs: as many held-out prompts as there are, then further seeds of them."""
    prompts = assembly.held_out_prompts()
    seeds = -(-count // len(prompts))
    return make_pairs(prompts, -(-count // seeds), seeds)[:count]


def evaluate(
    assembly: Assembly, count: int, scales: Sequence[float] = (1.0,), processes: Sharing | None = None
) -> dict[float, dict[str, Comparison]]:
    """Base against tuned at each LoRA scale, for every reward and monitor.

    Args:
        assembly: Loaded, with the adapter attached.
        count: Prompt and seed pairs.
        scales: Factors of the LoRA.
        processes: Share the pairs out; every process then has the result.
    """
    pairs = evaluation_pairs(assembly, count)
    mixtures = (assembly.rewards, assembly.monitors)
    asked: dict[str, Any] = {"keep_videos": False, "scope": "evaluation", "processes": processes}
    tuning = assembly.model.tuning
    with tuning.off():
        base = score_pairs(assembly, pairs, mixtures, doing="evaluating the base", **asked)
    found = {}
    for scale in scales:
        doing = "evaluating" if len(scales) == 1 else f"evaluating scale {scale:g}"
        with tuning.scaled(scale):
            tuned = score_pairs(assembly, pairs, mixtures, doing=doing, **asked)
        found[scale] = {
            name: compare(base.scores[name], tuned.scores[name], assembly.config.trainer.seed)
            for name in base.scores
        }
    return found


def as_json(comparisons: dict[str, Comparison]) -> dict[str, Any]:
    """For ``summary.json``."""
    return {name: {**asdict(found), "ci95": list(found.ci95)} for name, found in comparisons.items()}
