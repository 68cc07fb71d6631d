"""Base against tuned, on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vader_core.api.open_model import open_together
from vader_core.assembly.levers import process_switches
from vader_core.assembly.loading import cutting, load_rewards
from vader_core.assembly.trial import try_rewards
from vader_core.errors import VaderError
from vader_core.evaluation.comparison import as_json, evaluation_pairs
from vader_core.evaluation.comparison import evaluate as compare_pairs
from vader_core.progress import Progress, unseen
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig
from vader_core.run.layers import changed
from vader_core.training.texts import encode_each


def evaluate(
    config: RunConfig,
    lora: str,
    *,
    pairs: int = 64,
    scales: Sequence[float] = (1.0,),
    batch_size: int | None = None,
    registry: Registry | None = None,
    progress: Progress = unseen,
) -> dict[str, Any]:
    """Compare the base model with an adapter: the same held-out prompts, the same noise.

    In a process that a launcher started, the pairs are shared out, and every process has the result.

    Args:
        config: What was asked for, with rewards or monitors to score with.
        lora: A run directory, a path or ``hub:REPO[/FILE]``.
        pairs: Prompt and seed pairs.
        scales: Factors of the adapter.
        batch_size: Videos sampled at once; the run's own by default.
        registry: Where the components come from; the installed plugins by default.
        progress: Told how far it is.

    Returns:
        ``lora``, ``pairs``, and ``evaluation``: by scale and reward the means, the paired difference, its
        95 % bootstrap interval and the win rate.

    Raises:
        VaderError: Anything that cannot be done, before anything heavy where possible.
    """
    registry = registry or load_registry()
    if pairs < 2:
        raise VaderError("--pairs must be 2 or more")
    if not config.reward and not config.monitor:
        raise VaderError("nothing to score with: give --reward NAME (repeat)")
    config = changed(config, lora={"start": None})
    if batch_size is not None:
        config = changed(config, validation={"batch": batch_size})
    progress("loading the model", 0, 0)
    assembly, processes = open_together(config, lora, registry)
    assembly.progress = progress
    with processes.together(), process_switches(assembly.config):
        if assembly.config.parallel.shard_text_encoders:  # everyone's work at every text
            encode_each(assembly, [pair.prompt for pair in evaluation_pairs(assembly, pairs)])
        progress("loading the rewards", 0, 0)
        load_rewards(assembly, training=False, then=cutting(assembly))
        try_rewards(assembly)
        found = compare_pairs(assembly, pairs, list(scales) or [1.0], processes)
    return {
        "lora": lora,
        "pairs": pairs,
        "evaluation": {f"{scale:g}": as_json(rewards) for scale, rewards in found.items()},
    }
