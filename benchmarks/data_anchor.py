"""The data anchor on the demo, pushed hard: a reward alone, and with clips of the model's world beside it.

    python benchmarks/data_anchor.py run --out runs/anchor --jobs 2
    python benchmarks/data_anchor.py collect runs/anchor benchmarks/results/data_anchor.json
    python benchmarks/data_anchor.py table benchmarks/results/data_anchor.json

Every arm is the recipe ``demo`` at five times its learning rate. How far does the reward get before the
alignment of caption and picture has fallen by 0.02? All are scored after every update on the same
held-out captions and noise; the crossing is interpolated. Runs that are finished are not made again; one that
the clock cut leaves its curve so far.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from checkout import registry_of_checkout
from curves import collect, read, write

from vader_core.api.configure import complete
from vader_core.assembly.levers import pull_levers
from vader_core.assembly.loading import attach, load_backbone, load_rewards
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.evaluation.comparison import evaluation_pairs
from vader_core.evaluation.validation import score_pairs
from vader_core.run.config import validated
from vader_core.run.layers import changed, merged, read_recipe
from vader_core.training.journal import Journal
from vader_core.training.optimizer import Updates
from vader_core.training.processes import SingleProcess
from vader_core.training.setup import make_batches

#: The trained reward, and the alignment by a net that no judge of training is.
REWARD, ALIGNMENT = "demo_aesthetic", "demo_alignment_held_out"
SEEDS = (0, 1, 2, 3, 4)
#: Learning rate: the recipe's, times five.
RATE = 2e-3
#: A fall of the alignment that counts as content lost.
FALL = 0.02
#: Weight of the clips' loss; 0 is the reward alone.
WEIGHTS = (0.0, 3.0, 10.0)
MOST_UPDATES, EVERY, PAIRS = 30, 1, 24


def settings(weight: float, seed: int, device: str) -> dict[str, Any]:
    """What an arm changes in the recipe."""
    given: dict[str, Any] = {
        "monitor": [{"name": ALIGNMENT}],
        "trainer": {"lr": RATE, "seed": seed, "device": device},
        "validation": {"batch": 8},
    }
    if weight:
        given["data"] = {"source": "demo_style", "look": "plain", "held_out": 0}
        given["objective"] = {"reward_gradient": {"weight": 1.0}, "supervised": {"weight": weight}}
    return given


def loaded(weight: float, seed: int, device: str) -> Assembly:
    """The arm's parts."""
    registry = registry_of_checkout()
    tree = merged(read_recipe(registry, "demo"), settings(weight, seed, device))
    assembly = prepare(complete(validated(tree), registry), registry)
    load_backbone(assembly)
    attach(assembly)
    load_rewards(assembly)
    pull_levers(assembly)
    return assembly


def scores(assembly: Assembly) -> dict[str, float]:
    """Mean scores on the held-out captions, with noise that is the same for every arm and seed."""
    judge = replace(assembly, config=changed(assembly.config, trainer={"seed": 0}))
    found = score_pairs(
        judge, evaluation_pairs(judge, PAIRS), (judge.rewards, judge.monitors), keep_videos=False
    )
    return {name: round(float(values.mean()), 4) for name, values in found.scores.items()}


def train(weight: float, seed: int, device: str) -> Iterator[dict[str, float]]:
    """One run's curve, point by point, until the alignment has fallen by twice the limit."""
    assembly = loaded(weight, seed, device)
    processes = SingleProcess(assembly.device)
    batches = make_batches(assembly, Journal(processes))
    updates = Updates(assembly.model.tuning, assembly.config.trainer, processes)
    assert assembly.objective is not None
    base = {"updates": 0, **scores(assembly)}
    yield base
    for done in range(1, MOST_UPDATES + 1):
        (prepared,) = assembly.objective.prepare(
            assembly.model, [batches.at(done - 1, 0, *processes.here)], processes
        )
        with updates.update() as backward:
            assembly.objective.step(assembly.model, prepared, backward, 0)
        if done % EVERY == 0:
            point = {"updates": done, **scores(assembly)}
            yield point
            if base[ALIGNMENT] - point[ALIGNMENT] > 2 * FALL:
                return


def crossing(curve: list[dict[str, float]]) -> tuple[float, float] | None:
    """Reward and updates where the alignment has fallen by :data:`FALL`; ``None`` where it never has."""
    limit = curve[0][ALIGNMENT] - FALL
    for before, after in itertools.pairwise(curve):
        if after[ALIGNMENT] <= limit:
            share = (before[ALIGNMENT] - limit) / (before[ALIGNMENT] - after[ALIGNMENT])
            return tuple(  # type: ignore[return-value]
                before[name] + share * (after[name] - before[name]) for name in (REWARD, "updates")
            )
    return None


def _one(work: tuple[float, int, argparse.Namespace]) -> str:
    weight, seed, options = work
    torch.set_num_threads(1)
    found: dict[str, Any] = {"weight": weight, "seed": seed, "whole": False, "curve": []}
    for point in train(weight, seed, options.device):
        found["curve"].append(point)
        write(options.out / f"run-{weight:g}-{seed}.json", found)
        if time.time() > options.ends_at:
            return f"weight {weight:g}, seed {seed}: cut after {point}"
    found["whole"] = True
    write(options.out / f"run-{weight:g}-{seed}.json", found)
    curve = found["curve"]
    return f"weight {weight:g}, seed {seed}: {crossing(curve)} (reward, updates), {curve[-1]}"


def run(options: argparse.Namespace) -> None:
    """Every arm with every seed."""
    options.out.mkdir(parents=True, exist_ok=True)
    options.ends_at = time.time() + options.deadline
    done = {(one["weight"], one["seed"]) for one in read(options.out) if one["whole"]}
    work = [(weight, seed, options) for seed in options.seeds for weight in options.weights]
    missing = [one for one in work if one[:2] not in done]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for line in pool.imap(_one, missing):
            print(line, flush=True)


def gather(options: argparse.Namespace) -> None:
    """All runs as one file."""
    collect(options.sources, options.file, "python benchmarks/data_anchor.py run", ("weight", "seed"))


def table(options: argparse.Namespace) -> None:
    """Medians and ranges over the seeds, in Markdown."""
    # A run that was cut says where it crossed, and nothing of how far it would have kept its content.
    runs = [one for one in read(options.source) if one["whole"] or crossing(one["curve"])]
    print("| weight of the clips | seeds | reward when alignment has fallen by 0.02 | updates |")
    print("| --- | --- | --- | --- |")
    for weight in sorted({one["weight"] for one in runs}):
        curves = [one["curve"] for one in runs if one["weight"] == weight]
        found = [point for curve in curves if (point := crossing(curve)) is not None]
        kept = [curve[-1][REWARD] for curve in curves if crossing(curve) is None]
        cells = [
            f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for values in zip(*found, strict=True)
        ] or ["not fallen", "-"]
        more = f"; not fallen in {len(kept)}, reward {min(kept):.2f} to {max(kept):.2f}" if kept else ""
        print(f"| {weight:g} | {len(curves)} | {cells[0]}{more} | {cells[1]} |")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help=run.__doc__)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--jobs", type=int, default=1)
    command.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    command.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    command.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    command.add_argument("--deadline", type=float, default=float("inf"), help="seconds after which runs end")
    command.set_defaults(call=run)
    command = commands.add_parser("table", help=table.__doc__)
    command.add_argument("source", type=Path, help="a folder, or a file of collect")
    command.set_defaults(call=table)
    command = commands.add_parser("collect", help=gather.__doc__)
    command.add_argument("sources", type=Path, nargs="+")
    command.add_argument("file", type=Path)
    command.set_defaults(call=gather)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
