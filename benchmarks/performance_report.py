"""The tables of docs/performance.md from the measurements under benchmarks/results.

python benchmarks/performance_report.py docs/performance.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page_tables import write_tables

RESULTS = Path(__file__).parent / "results"
#: Seconds per step of the official code on the same kind of device (batch 1, same shapes, HPS reward).
OFFICIAL = {"videocrafter": 14.69, "opensora": 10.41, "modelscope": 8.13}


def read(name: str) -> Any:
    """One file of results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def step_table(rows: dict[str, Any]) -> list[str]:
    """Seconds and memory, a row a measurement."""
    floors = {_work(name, row): row["floor_seconds"] for name, row in rows.items() if "floor_seconds" in row}
    lines = [
        "| backbone | what | s per step | range | steps per second, official code = 1 | over the floor | "
        "peak allocated, GiB | reserved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        backbone = name.partition("-")[0]
        seconds = row["seconds_per_step"]
        work = _work(name, row)
        official = f"{OFFICIAL[backbone] / seconds:.1f}" if backbone in OFFICIAL and work in floors else "-"
        floor = f"{seconds / floors[work]:.1f}" if work in floors else "-"
        low, high = row["range"]
        lines.append(
            f"| {backbone} | {row['what']} | {seconds:.2f} | {low:.2f} to {high:.2f} "
            f"| {official} | {floor} | "
            f"{row['peak_allocated_gib']:.2f} | {row['peak_reserved_gib']:.1f} |"
        )
    return lines


def _work(name: str, row: dict[str, Any]) -> tuple[str, str, int]:
    """What rows must share to be compared."""
    return name.partition("-")[0], row["plan"]["video"], row["plan"]["segments"]


def phase_table(rows: dict[str, Any]) -> list[str]:
    """Seconds by phase, the device waited for at each boundary."""
    names = list(next(iter(rows.values()))["phases"])
    lines = ["| row | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row['phases'][phase]:.3f}" for phase in names) + " |")
    return lines


def pass_table(rows: dict[str, Any]) -> list[str]:
    """One guided no-grad prediction."""
    lines = ["| row | wall, ms | device busy, ms | launches |", "|---|---|---|---|"]
    for name, row in rows.items():
        found = row.get("no_grad_kernels", row.get("no_graph_kernels"))
        if found:
            lines.append(
                f"| {name} | {found['wall_ms']:.0f} | {found['device_ms']:.0f} | {found['launches']} |"
            )
    return lines


def kernel_table(kernels: dict[str, list[float]]) -> list[str]:
    """The project's kernels beside torch's."""
    lines = ["| kernel and size | error | torch's error | µs | torch's µs |", "|---|---|---|---|---|"]
    for name, found in kernels.items():
        times = [f"{value:.0f}" for value in found[2:4]] or ["-", "-"]
        lines.append(f"| {name} | {found[0]:.2e} | {found[1]:.2e} | {' | '.join(times)} |")
    return lines


def folding_table(rows: list[dict[str, float]]) -> list[str]:
    """Folded and unfolded bfloat16 against float64."""
    lines = ["| the adapter moves the output by | bf16 | bf16, folded |", "|---|---|---|"]
    for row in rows:
        moved = row["adapter_moves_the_output_by"]
        lines.append(f"| {moved:.1%} | {row['bf16']:.3%} | {row['bf16_folded']:.3%} |")
    return lines


def fp8_table(found: dict[str, Any]) -> list[str]:
    """Float8 products and bfloat16 against float32 on the demo."""
    layer, steps = found["layer"], found["prediction_by_step"]
    lines = ["| relative deviation from float32 | bf16 | fp8 |", "|---|---|---|"]
    rows = {
        "a layer's product, median": [layer[kind]["median"] for kind in ("bf16", "fp8")],
        "a layer's product, largest": [layer[kind]["largest"] for kind in ("bf16", "fp8")],
        "a guided prediction, largest of 6 steps": [max(steps[kind]) for kind in ("bf16", "fp8")],
        "latents of a rollout": [found["latents"][kind] for kind in ("bf16", "fp8")],
    }
    lines += [f"| {name} | {bf16:.2%} | {fp8:.2%} |" for name, (bf16, fp8) in rows.items()]
    return lines


def shortcuts_table(rows: list[dict[str, Any]]) -> list[str]:
    """What shortcuts save and change on the demo."""
    lines = ["| no-grad steps | work | latents move by | reward | alignment |", "|---|---|---|---|---|"]
    whole = rows[0]["block_passes"]
    for row in rows:
        lines.append(
            f"| {row['shortcut']} | {row['block_passes'] / whole:.2f} | {row['latents_move_by']:.3f} | "
            f"{row['demo_aesthetic']:.2f} | {row['demo_alignment']:.3f} |"
        )
    return lines


def estimator_table(rows: dict[str, Any]) -> list[str]:
    """The estimated and the measured peak of every row that was measured with an estimate."""
    lines = ["| row | measured, GiB | estimated | error |", "|---|---|---|---|"]
    for name, row in rows.items():
        measured, estimated = row["peak_allocated_gib"], row.get("estimated_peak_gib")
        if estimated is not None:
            error = estimated / measured - 1
            lines.append(f"| {name} | {measured:.2f} | {estimated:.2f} | {error:+.1%} |")
    return lines


def main(page: Path) -> None:
    """Write the tables between the page's marks."""
    rows = read("steps-h200.json")["rows"]
    tables = {
        "steps": step_table(rows),
        "phases": phase_table(rows),
        "passes": pass_table(rows),
        "kernels": kernel_table(read("kernels-h200.json")["kernels"]),
        "folding": folding_table(read("folding.json")),
        "fp8": fp8_table(read("fp8.json")),
        "estimator": estimator_table(rows),
        "shortcuts": shortcuts_table(read("shortcuts.json")),
    }
    write_tables(page, tables)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
