"""``vader compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vader_core.cli.console import console
from vader_core.cli.help import GroupedCommand
from vader_core.cli.options import config_alone, lora_base, model_options, run_base
from vader_core.cli.paths import EnteredPath
from vader_core.progress import counted
from vader_core.registry import Registry, load_registry


@click.command(
    "compare",
    cls=GroupedCommand,
    examples=("vader compare runs/one runs/two --max-prompts 4",),
)
@click.argument("subjects", nargs=-1, required=True, metavar="LORA[:SCALE]…")
@model_options
@click.option(
    "--reward", "rewards", multiple=True, metavar="NAME", help="Score with it (repeat); the first run's own."
)
@click.option("--lora-scale", "scales", multiple=True, type=float, help="Show each at this factor (repeat).")
@click.option("--count", type=int, default=1, show_default=True, help="Seeds per prompt.")
@click.option("--max-prompts", type=int, default=8, show_default=True, help="Use at most this many prompts.")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Videos sampled at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--out", type=EnteredPath(), default=Path("compare.html"), show_default=True, help="The page.")
def command(**flags: Any) -> None:
    """Compare runs, checkpoints or adapters: the same prompts, the same noise, one page.

    The base model stands first; every score is compared with its own. The settings are those of the first
    run, and flags change them. With --lora-scale 0.5 --lora-scale 1 each is shown at both.
    """
    compare_command(flags, load_registry())


def compare_command(flags: dict[str, Any], registry: Registry) -> None:
    """The command, over a given registry."""
    subjects: tuple[str, ...] = flags.pop("subjects")
    rewards, size = flags.pop("rewards"), flags.pop("batch_size")
    runs = (found for text in subjects if (found := run_base(text)))
    base = next(runs, None) or lora_base(subjects[0], flags, registry)
    config = config_alone(flags, registry, base=base)

    from vader_core.api.compare import compare
    from vader_core.cli.sample import ClipProgress

    with ClipProgress() as progress:
        found = compare(
            subjects,
            config,
            out=flags["out"],
            rewards=rewards,
            scales=flags["scales"],
            count=flags["count"],
            max_prompts=flags["max_prompts"],
            batch_size=size,
            registry=registry,
            listener=progress,
        )
    if flags["as_json"]:
        click.echo(json.dumps(found))
        return
    _print_table(found)
    click.echo(f"page: {found['page']}")


def _print_table(found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{counted(found['pairs'], 'pair')} of prompt and seed")
    table.add_column("model", overflow="fold")
    for name in found["rewards"]:
        table.add_column(name, justify="right", overflow="fold")
    for index, label in enumerate(found["columns"]):
        table.add_row(label, *(_cell(cells[index]) for cells in found["rewards"].values()))
    console().print(table)


def _cell(cell: dict[str, Any]) -> str:
    if cell["difference"] is None:
        return f"{cell['mean']:.3g}"
    low, high = cell["ci95"]
    return f"{cell['mean']:.3g} ({cell['difference']:+.3g}; {low:+.3g} to {high:+.3g})"
