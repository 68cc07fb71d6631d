"""``vader sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vader_core.cli.options import config_of, model_options, run_base
from vader_core.cli.paths import EnteredPath
from vader_core.registry import Registry, load_registry


@click.command("sample")
@model_options
@click.option(
    "--lora",
    multiple=True,
    metavar="L[:SCALE]",
    help="A run directory, a PATH or hub:REPO[/FILE] (repeat to add several).",
)
@click.option(
    "--lora-scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor of the first LoRA; 0 is the base model.",
)
@click.option(
    "--count", type=int, default=1, show_default=True, help="Videos per prompt, each with its own seed."
)
@click.option("--max-prompts", type=int, help="Use at most this many prompts.")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Videos sampled at once.")
@click.option(
    "--out",
    type=EnteredPath(),
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
    lora: tuple[str, ...] = flags.pop("lora")
    size = flags.pop("batch_size")
    base = run_base(lora[0] if lora else None)
    for section in ("reward", "monitor"):
        base.pop(section, None)
    config = config_of(flags, registry, base=base)

    from vader_core.api.sample import sample

    scored = sample(
        config,
        out=flags["out"],
        lora=lora,
        lora_scale=flags["lora_scale"],
        count=flags["count"],
        max_prompts=flags["max_prompts"],
        batch_size=size,
        overwrite=flags["overwrite"],
        registry=registry,
    )
    click.echo(f"{len(scored.pairs)} videos in {flags['out']}")
