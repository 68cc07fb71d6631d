"""Sample videos from a base or a tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vader_core.api.open_model import open_assembly
from vader_core.assembly.levers import process_switches
from vader_core.assembly.resolve import backbone_component, choose_device
from vader_core.errors import VaderError
from vader_core.evaluation.validation import Scored, make_pairs, score_pairs, write_samples
from vader_core.paths import entered
from vader_core.registry import Registry, load_registry
from vader_core.run.config import RunConfig
from vader_core.run.layers import changed


def sample(  # noqa: PLR0913 - what a person can ask for
    config: RunConfig,
    *,
    out: str | Path | None = None,
    lora: str | Sequence[str] = (),
    lora_scale: float = 1.0,
    count: int = 1,
    max_prompts: int | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> Scored:
    """Sample ``count`` videos of every prompt.

    Args:
        config: What was asked for; its rewards are not used.
        out: Folder for the clips; ``None`` writes nothing.
        lora: Adapters, each ``L[:SCALE]``.
        lora_scale: Factor of the first adapter; 0 is the base model.
        count: Videos per prompt, each with its own seed.
        max_prompts: Use at most this many prompts.
        batch_size: Videos sampled at once.
        overwrite: Replace videos in ``out``.
        registry: Where the components come from; the installed plugins by default.

    Returns:
        The videos [N, F, 3, H, W] on the CPU, with what was asked for.

    Raises:
        VaderError: Anything that cannot be done, before anything heavy where possible.
    """
    registry = registry or load_registry()
    folder = None if out is None else entered(out)
    if folder is not None and folder.exists() and any(folder.iterdir()) and not overwrite:
        raise VaderError(f"--out {folder} exists and is not empty: choose another, or give --overwrite")
    if count < 1 or batch_size < 1:
        raise VaderError("--count and --batch-size must be 1 or more")
    config = without_scores(config)
    if config.video.num_frames is None:
        config = changed(config, video={"num_frames": sample_frames(config, registry)})
    config = changed(config, validation={"batch": batch_size}, lora={"start": None})
    assembly = open_assembly(config, lora, registry)
    prompts = assembly.every_prompt()[:max_prompts]
    pairs = make_pairs(prompts, len(prompts), count)
    with process_switches(assembly.config), assembly.model.tuning.scaled(lora_scale):
        scored = score_pairs(assembly, pairs, (), scope="sample")
    if folder is not None:
        write_samples(scored, folder, assembly.geometry.fps)
    return scored


def without_scores(config: RunConfig) -> RunConfig:
    """The same run without rewards and monitors."""
    return config.model_copy(update={"reward": [], "monitor": []})


def sample_frames(config: RunConfig, registry: Registry) -> int | None:
    """How many frames the backbone samples where nobody says; ``None`` is as many as it trains on."""
    import torch

    device = choose_device(config)
    backbone = backbone_component(config, registry).make(
        config.backbone.options, device=device, dtype=torch.float32
    )
    found: int | None = backbone.defaults.sample_frames
    return found
