"""``vader evaluate``."""

from __future__ import annotations

import json
import shlex
from typing import Any

import click

from vader_core.cli.console import console
from vader_core.cli.help import GroupedCommand
from vader_core.cli.launching import asked_processes, is_first, is_to_launch, launch, processes_option
from vader_core.cli.options import config_shared, lora_base, model_options, scoring_options
from vader_core.cli.paths import EnteredPath
from vader_core.errors import VaderError
from vader_core.progress import counted
from vader_core.registry import Registry, load_registry


@click.command(
    "evaluate",
    cls=GroupedCommand,
    examples=(
        "vader evaluate runs/demo --pairs 64",
        "vader evaluate runs/demo --lora-scale 0.5 --lora-scale 1 --monitor demo_alignment",
    ),
)
@click.argument("lora", metavar="LORA")
@model_options
@scoring_options
@click.option("--pairs", type=int, default=64, show_default=True, help="Prompt and seed pairs.")
@click.option(
    "--lora-scale", "scales", multiple=True, type=float, help="Factor of the LoRA (repeat for a sweep)."
)
@click.option("--batch-size", type=int, help="Videos sampled at once.  [default: the run's]")
@click.option("--suite", metavar="NAME", help="Judge by a suite's dimensions and prompts, such as vbench.")
@click.option("--suite-prompts", type=EnteredPath(), metavar="FILE", help="The suite's file of prompts.")
@click.option(
    "--dimension", "dimensions", multiple=True, metavar="NAME", help="Of the suite (repeat); all by default."
)
@click.option("--most-prompts", type=int, metavar="N", help="Prompts per dimension, for a quick look.")
@click.option("--most-videos", type=int, metavar="N", help="Clips per prompt, for a quick look.")
@click.option("--clips", type=EnteredPath(), metavar="DIR", help="Keep the suite's clips, with a page.")
@processes_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--out", type=EnteredPath(), help="Also write the JSON to this file.")
def command(**flags: Any) -> int:
    """Compare the base model with LORA (a run directory, a PATH or hub:REPO[/FILE]).

    Both are given the same held-out prompts and the same noise. Means, paired difference with its 95 %
    bootstrap interval, and win rate, for each reward and monitor.
    """
    arguments = (click.get_current_context().find_root().obj or {}).get("arguments", ())
    return evaluate_command({**flags, "arguments": arguments}, load_registry())


def evaluate_command(flags: dict[str, Any], registry: Registry) -> int:
    """The command, over a given registry."""
    lora: str = flags.pop("lora")
    size = flags.pop("batch_size")
    config = config_shared(flags, registry, base=lora_base(lora, flags, registry))
    _check_suite(flags)
    processes = asked_processes(flags["num_processes"])
    if processes is not None and is_to_launch(processes):
        return launch(processes, config, flags["arguments"], shlex.join(["vader", *flags["arguments"]]))
    if flags["suite"]:
        from vader_core.api.suite import evaluate_suite

        given = {name: flags[name] for name in ("dimensions", "most_prompts", "most_videos", "clips")}
        place = flags["suite_prompts"]
        result = evaluate_suite(
            config, lora, flags["suite"], place, batch_size=size, registry=registry, **given
        )
    else:
        from vader_core.api.evaluate import evaluate
        from vader_core.cli.progress import PhaseLine

        with PhaseLine(quiet=not is_first()) as progress:
            result = evaluate(
                config,
                lora,
                pairs=flags["pairs"],
                scales=flags["scales"],
                batch_size=size,
                registry=registry,
                progress=progress,
            )
    if not is_first():
        return 0
    if flags["out"] is not None:
        from vader_core.files import replacing

        with replacing(flags["out"]) as beside:
            beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if flags["as_json"]:
        click.echo(json.dumps(result))
        return 0
    (_print_suite if flags["suite"] else _print_table)(result)
    return 0


def _check_suite(flags: dict[str, Any]) -> None:
    """Refuse a suite without its prompts, and its options without a suite."""
    own = ("suite_prompts", "dimensions", "most_prompts", "most_videos", "clips")
    if not flags["suite"]:
        idle = [name for name in own if flags[name]]
        if idle:
            flag = "--dimension" if idle[0] == "dimensions" else "--" + idle[0].replace("_", "-")
            raise VaderError(f"{flag} belongs to --suite NAME: give it, or leave {flag} out")
        return
    if (asked_processes(flags["num_processes"]) or 1) > 1:
        raise VaderError("--suite makes its clips in one process: leave --num-processes out")
    if flags["suite_prompts"] is None:
        from vader_core.evaluation.suite import find_suite

        found = find_suite(flags["suite"], load_registry())
        raise VaderError(f"--suite {flags['suite']} needs --suite-prompts FILE: {found.prompts}")


def _print_suite(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{result['lora']}: suite {result['suite']}")
    for column in ("dimension", "clips", "base", "tuned", "difference"):
        table.add_column(column, justify="left" if column == "dimension" else "right")
    for name, row in result["dimensions"].items():
        difference = row["tuned"] - row["base"]
        cells = [f"{row['base']:.4f}", f"{row['tuned']:.4f}", f"{difference:+.4f}"]
        table.add_row(name, str(row["clips"]), *cells)
    console().print(table)


def _print_table(result: dict[str, Any]) -> None:
    """Names are folded, never cut, so that the table is read at 80 columns too."""
    from rich.table import Table

    several = len(result["evaluation"]) > 1
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in (*(["scale"] if several else []), "reward"):
        table.add_column(column, overflow="fold")
    for column in ("base", "tuned", "change", "95 % interval", "won"):
        table.add_column(column, justify="right", no_wrap=True)
    for scale, rewards in result["evaluation"].items():
        for name, row in rewards.items():
            low, high = row["ci95"]
            table.add_row(
                *([scale] if several else []),
                name,
                f"{row['base']:.4g}",
                f"{row['tuned']:.4g}",
                f"{row['difference']:+.3g}",
                f"{low:+.3g} to {high:+.3g}",
                f"{row['win_rate']:.0%}",
            )
    out = console()
    out.print(f"{result['lora']}: {counted(result['pairs'], 'pair')}", markup=False, soft_wrap=True)
    out.print(table)
