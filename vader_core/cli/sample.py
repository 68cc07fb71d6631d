"""``vader sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vader_core.cli.options import config_of, model_options
from vader_core.errors import VaderError
from vader_core.registry import Registry, load_registry
from vader_core.run.config import Tree
from vader_core.run.layers import read_yaml


def run_base(lora: str | None) -> Tree:
    """The configuration of the run that ``--lora`` names, where it names one."""
    if lora is None or lora.startswith("hub:") or not (Path(lora) / "config.yaml").is_file():
        return {}
    return read_yaml(Path(lora) / "config.yaml")


@click.command("sample")
@model_options
@click.option("--lora", metavar="L", help="A run directory, a PATH or hub:REPO[/FILE].")
@click.option(
    "--lora-scale", type=float, default=1.0, show_default=True, help="Factor of the LoRA; 0 is the base."
)
@click.option(
    "--count", type=int, default=1, show_default=True, help="Videos a prompt, each with its own seed."
)
@click.option("--max-prompts", type=int, help="At most so many prompts.")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Videos sampled at once.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("samples"),
    show_default=True,
    help="Folder of the videos.",
)
@click.option("--overwrite", is_flag=True, help="Replace videos in --out.")
def command(**flags: Any) -> None:
    """Sample videos from a base model, or from a tuned one with --lora.

    With --lora RUN the run's own settings hold, and flags change them.
    """
    registry = load_registry()
    sample_command(flags, registry)


def sample_command(flags: dict[str, Any], registry: Registry) -> None:
    """The command, over a given registry."""
    out: Path = flags["out"]
    if out.exists() and any(out.iterdir()) and not flags["overwrite"]:
        raise VaderError(f"--out {out} exists and is not empty: choose another, or give --overwrite")
    if flags["count"] < 1 or flags["batch_size"] < 1:
        raise VaderError("--count and --batch-size must be 1 or more")
    lora, scale = flags.pop("lora"), flags["lora_scale"]
    size, limit = flags.pop("batch_size"), flags["max_prompts"]
    base = run_base(lora)
    for key in ("rewards", "monitors", "reward_frames"):
        base.pop(key, None)
    base.get("lora", {}).pop("start", None)
    asked_frames = flags.get("num_frames") is not None or bool(base.get("video", {}).get("num_frames"))
    config = config_of(flags, registry, base=base)

    from vader_core.assembly.prepare import choose_device, make_backbone, prepare
    from vader_core.evaluation.validation import make_pairs, score_pairs, write_samples
    from vader_core.lora.adapter import attach_adapter, lora_scale
    from vader_core.run.adapters import find_adapter

    if not asked_frames:
        backbone, _ = make_backbone(config, registry, choose_device(config))
        config.video.num_frames = backbone.defaults.sample_frames
    config.trainer.validation_batch = size
    assembly = prepare(config, registry)
    assembly.load_backbone()
    if lora is not None:
        attach_adapter(assembly.backbone.denoiser, find_adapter(lora, registry), what=f"--lora {lora}")
    prompts = assembly.held_out_prompts()[:limit]
    pairs = make_pairs(prompts, len(prompts), flags["count"])
    with lora_scale(assembly.backbone.denoiser, scale):
        scored = score_pairs(assembly, pairs, (), scope="sample")
    write_samples(scored, out, assembly.geometry.fps)
    click.echo(f"{len(pairs)} videos in {out}")
