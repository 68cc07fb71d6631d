"""``python -m vader_rewards.measure``: time and memory of every reward at full size, with random weights.

Measures one forward and one backward pass over frames of 224 x 224 pixels, each reward in its own process so
that the peak memory is its own, and writes JSON. ``--table`` renders such files as the table of
``docs/rewards.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vader_core.device import peak_gib, reset_peak
from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness

from .plugin import REWARDS

#: What is measured where nothing else is asked for: a row per reward, two more for the other detectors.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {"weights": "random"}) for name in REWARDS if name != "http"},
    "aesthetic_hps": ("aesthetic_hps", {"aesthetic": {"weights": "random"}, "hps": {"weights": "random"}}),
    "actpred": ("actpred", {"weights": "random", "label": "0"}),
    "jpeg_size": ("jpeg_size", {}),
    "temporal_flickering": ("temporal_flickering", {}),
    "object_detection": ("object_detection", {"weights": "random", "threshold": 0.001}),
    "object_detection grounding_dino_tiny": (
        "object_detection",
        {"weights": "random", "detector": "grounding_dino_tiny", "threshold": 0.001},
    ),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIDE, FRAMES = 224, 8


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(row: str, device: torch.device, precision: str, repeats: int) -> dict[str, Any]:
    """Median milliseconds forward and backward, and the process's peak memory, of one row.

    Args:
        row: Key of :data:`ROWS`.
        device: Where it runs.
        precision: Key of :data:`DTYPES`.
        repeats: Timed passes after one that is not; with 0 that first one is timed.
    """
    name, given = ROWS[row]
    module, cls, config, _ = REWARDS[name]
    made = getattr(import_module(f"{__package__}.{module}"), cls)
    reward = made(config(**given), device=device, dtype=DTYPES[precision])
    video = Randomness(0).normal("video", (FRAMES, 3, SIDE, SIDE), device=device).sigmoid()
    prompts = [Prompt("a raccoon in a red coat plays the piano")]
    reset_peak(device)
    held = peak_gib(device)
    forward, backward = [], []
    for turn in range(repeats + 1):
        pixels = video.clone().requires_grad_(reward.differentiable)
        started = _now(device)
        loss = reward(pixels, prompts, Randomness(turn)).loss.mean()
        middle = _now(device)
        if reward.differentiable:
            torch.autograd.grad(loss, pixels)
        ended = _now(device)
        forward.append(1000 * (middle - started))
        backward.append(1000 * (ended - middle))
    return {
        "forward_ms": round(statistics.median(forward[1:] or forward), 1),
        "backward_ms": round(statistics.median(backward[1:] or backward), 1)
        if reward.differentiable
        else None,
        "peak_gib": round(peak_gib(device), 2),
        "before_gib": round(held, 2),
    }


def _in_own_process(row: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "vader_rewards.measure",
        "--one",
        row,
        "--device",
        arguments.device,
        "--precision",
        arguments.precision,
        "--repeats",
        str(arguments.repeats),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{row}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads())
    return f"{platform.machine()} CPU, {threads} threads"


def table(results: list[dict[str, Any]]) -> str:
    """Results as a Markdown table, a row per reward, two columns per file."""
    heads = [f"{result['precision']} on {result['machine']}" for result in results]
    lines = [
        "| reward | " + " | ".join(f"{head}: ms forward + backward | GiB" for head in heads) + " |",
        "|---|" + "---|---|" * len(heads),
    ]
    rows = dict.fromkeys(row for result in results for row in result["rewards"])
    for row in rows:
        cells = []
        for result in results:
            one = result["rewards"].get(row)
            if one is None:
                cells.append("not measured | ")
                continue
            back = "no gradient" if one["backward_ms"] is None else f"{one['backward_ms']:,.0f}"
            cells.append(f"{one['forward_ms']:,.0f} + {back} | {one['peak_gib']:.1f}")
        lines.append(
            f"| `{row.split()[0]}`{''.join(f' ({w})' for w in row.split()[1:])} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


#: The lines of ``docs/rewards.md`` between which the table stands.
BEGIN, END = "<!-- timings -->", "<!-- end of timings -->"


def replaced(text: str, rendered: str) -> str:
    """``text`` with the table between its two marks.

    Raises:
        VaderError: It has not both marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise VaderError(f"the page has no place for the table: put {BEGIN} and {END} into it")
    return f"{before}{BEGIN}\n{rendered}\n{END}{after}"


def render(results: list[Path], page: Path | None) -> None:
    """Print the table of JSON files, or write it into a page."""
    rendered = table([json.loads(path.read_text(encoding="utf-8")) for path in results])
    if page is None:
        sys.stdout.write(rendered + "\n")
        return
    text = replaced(page.read_text(encoding="utf-8"), rendered)
    with replacing(page) as beside:
        beside.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, or render what was measured."""
    parser = argparse.ArgumentParser(prog="python -m vader_rewards.measure", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed passes after one that warms up; 0 times that one"
    )
    parser.add_argument(
        "--reward", action="append", choices=sorted(ROWS), help="only this one; may be repeated"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write; what it holds of other rewards is kept")
    parser.add_argument("--table", type=Path, nargs="+", metavar="JSON", help="render these files and stop")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="with --table: write it between a page's marks"
    )
    parser.add_argument("--one", choices=sorted(ROWS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        render(arguments.table, arguments.into)
        return
    device = torch.device(arguments.device)
    if arguments.one:
        found = measure(arguments.one, device, arguments.precision, arguments.repeats)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    result: dict[str, Any] = {
        "command": "python -m vader_rewards.measure",
        "machine": _machine(device),
        "torch": torch.__version__,
        "precision": arguments.precision,
        "video": {"frames": FRAMES, "height": SIDE, "width": SIDE},
        "repeats": arguments.repeats,
        "rewards": {},
    }
    if arguments.out and arguments.out.is_file():
        result["rewards"] = json.loads(arguments.out.read_text(encoding="utf-8"))["rewards"]
    for row in arguments.reward or ROWS:
        result["rewards"][row] = _in_own_process(row, arguments)
        sys.stderr.write(f"{row}: {result['rewards'][row]}\n")
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            with replacing(arguments.out) as beside:
                beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table([result]) + "\n")


if __name__ == "__main__":
    main()
