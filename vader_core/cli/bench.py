"""``vader bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vader_core.cli.console import console
from vader_core.cli.help import GroupedCommand
from vader_core.cli.options import config_alone, model_options, reward_options, training_options
from vader_core.cli.paths import EnteredPath
from vader_core.errors import VaderError
from vader_core.registry import Registry, load_registry


@click.command(
    "bench",
    cls=GroupedCommand,
    examples=("vader bench --recipe demo", "vader bench --backbone videocrafter --reward hps --steps 3"),
)
@model_options
@reward_options
@training_options
@click.option("--steps", type=int, default=3, show_default=True, help="Measured steps.")
@click.option("--warmup", type=int, default=1, show_default=True, help="Steps before them.")
@click.option("--no-operations", is_flag=True, help="Do not count operations.")
@click.option("--kernels", is_flag=True, help="Profile one no-grad prediction, kernel by kernel.")
@click.option("--out", type=EnteredPath(), help="Write the JSON to this file.")
@click.option("--compare", type=EnteredPath(), help="Print ratios to an earlier --out FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(**flags: Any) -> None:
    """Measure a training step: seconds by phase, peak memory, operations, share of the matrix rate.

    Weights that would have to be downloaded are random unless an option says otherwise.
    """
    bench_command(flags, load_registry())


def bench_command(flags: dict[str, Any], registry: Registry) -> None:
    """The command, over a given registry."""
    earlier = _read(flags["compare"]) if flags["compare"] else None
    config = config_alone(flags, registry)

    from vader_core.api.bench import bench

    result = bench(
        config,
        steps=flags["steps"],
        warmup=flags["warmup"],
        operations=not flags["no_operations"],
        kernels=flags["kernels"],
        registry=registry,
    )
    if flags["out"] is not None:
        from vader_core.files import replacing

        flags["out"].parent.mkdir(parents=True, exist_ok=True)
        with replacing(flags["out"]) as beside:
            beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if flags["as_json"]:
        click.echo(json.dumps(result))
        return
    _print_table(result, earlier)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VaderError(f"--compare {path}: not a file of `vader bench --out` ({error})") from error
    if "seconds_per_step" not in found:
        raise VaderError(f"--compare {path}: not a file of `vader bench --out`")
    return found


def _print_table(result: dict[str, Any], earlier: dict[str, Any] | None) -> None:
    from rich.table import Table

    plan = result["plan"]
    machine = f"{plan['precision']} on {plan['device']}"
    table = Table(title=f"One optimizer step: {plan['backbone']}, {plan['video']}, {machine}")
    columns = ["", "measured"] + (["earlier", "measured / earlier"] if earlier else [])
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    rows: list[tuple[str, tuple[str, ...]]] = [("seconds per step", ("seconds_per_step",))]
    rows += [(f"  {name}", ("phases", name)) for name in result["phases"]]
    rows += [(f"training part, {plan['steps']} steps, s", ("training_seconds",))]
    rows += [
        ("peak allocated, GiB", ("peak_allocated_gib",)),
        ("  estimated", ("estimated_peak_gib",)),
        ("peak reserved, GiB", ("peak_reserved_gib",)),
        ("operations of a step, 10^12", ("tera_operations",)),
        ("operations per second of a large matrix product here, 10^12", ("matrix_rate_tera",)),
        ("the step's operations at that rate, s", ("floor_seconds",)),
        ("measured seconds / these", ("ratio_to_floor",)),
    ]
    for label, path in rows:
        now, before = _at(result, path), _at(earlier, path)
        if now is None:
            continue
        cells = [label, f"{now:.4g}"]
        if earlier:
            cells += [f"{before:.4g}" if before else "-", f"{now / before:.2f}" if before else "-"]
        table.add_row(*cells)
    console().print(table)


def _at(tree: dict[str, Any] | None, path: tuple[str, ...]) -> float | None:
    for key in path:
        tree = (tree or {}).get(key)
    return None if tree is None else float(tree)  # type: ignore[arg-type]
