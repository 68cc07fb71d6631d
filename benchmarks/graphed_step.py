"""The differentiated step from CUDA graphs: whole steps with and without, taking turns.

    python benchmarks/graphed_step.py videocrafter
    python benchmarks/graphed_step.py opensora --batch 2 --turns 3
    python benchmarks/graphed_step.py videocrafter --tiny          the same on the CPU, without graphs

Random weights, HPS on one frame, the fastest settings. One loaded model serves all ways: `eager` replays the
no-grad steps alone, `denoiser` the differentiated prediction and its backward pass too, `decoder` and
`reward` those of the frames' decoder and of the reward's image tower on top, `fold` the folding as well,
which is `performance.cuda_graphs=all`. Prints for each way the median and the range of a whole step, where
the host is when (seconds since the step's begin at which it leaves a phase, the device not waited for), the
device's busy seconds, the gradient's relative distance to the eager one, and where the host waits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from store_seconds import FAST, MODELS, TINY
from torch import Tensor

from vader_core.api.bench import with_prompts, with_random_files
from vader_core.api.configure import complete, configure
from vader_core.assembly.levers import process_switches
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.performance.cuda_graphs import GraphedForward
from vader_core.performance.fold_adapter import Folding
from vader_core.profiling.bench import Bench, load
from vader_core.profiling.stopwatch import SilentStopwatch, Stopwatch, timed_parts, timed_updates
from vader_core.registry import Registry, load_registry

#: Each replays what the one before replays, and more.
WAYS = ("eager", "denoiser", "decoder", "reward", "fold")


class HostStopwatch(Stopwatch):
    """Notes when the host leaves each phase; the device is not waited for."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.left: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Waits for nothing."""
        begun = time.perf_counter()
        yield
        self.left[name] = time.perf_counter()
        self.seconds[name] += self.left[name] - begun


def assemble(options: argparse.Namespace, registry: Registry) -> Assembly:
    """The loaded model with its reward, every graph that there may be in place."""
    given = dict((TINY if options.tiny else MODELS)[options.model])
    reward = {"name": "hps"} | ({"architecture": "tiny"} if options.tiny else {})
    if options.tiny:
        given["sampler"] = {"num_steps": 4}
    else:
        given["performance"] = {**FAST, "cuda_graphs": "all"}
    given["trainer"] = {"batch_size": options.batch}
    config = configure(registry=registry, reward=[reward], validation={"prompts": 0}, **given)
    config = with_prompts(with_random_files(config, registry), registry)
    return load(prepare(complete(config, registry), registry), steps=400)


def choose(assembly: Assembly, way: str) -> None:
    """Which calls with a gradient are replayed."""
    most = WAYS.index(way)
    towers = [tower for term in assembly.rewards.terms for tower in term.reward.towers()]
    parts = [[assembly.backbone.denoiser], assembly.backbone.decoders(), towers]
    for number, modules in enumerate(parts, start=1):
        for module in modules:
            graphed = module.forward
            if isinstance(graphed, GraphedForward):
                graphed.gradients = number <= most
    for lever in assembly.model.levers:
        if isinstance(lever, Folding):
            lever.captured = most == len(WAYS) - 1


def gradient(bench: Bench) -> Tensor:
    """Of one batch, always the same, with respect to all that learns."""
    trainer = bench.trainer
    batches = trainer.batches.at(0, 0, *bench.processes.here)
    (prepared,) = trainer.objective.prepare(trainer.model, [batches], bench.processes)
    for parameter in bench.parameters:
        parameter.grad = None
    trainer.objective.step(trainer.model, prepared, lambda loss: loss.backward(), 0)
    found = torch.cat([one.grad.flatten().double() for one in bench.parameters if one.grad is not None])
    for parameter in bench.parameters:
        parameter.grad = None
    return found


def apart(left: Tensor, right: Tensor) -> float:
    """Relative distance of two gradients."""
    return float((left - right).norm() / right.norm())


def host(bench: Bench, number: int) -> dict[str, Any]:
    """Where the host is when, in one step."""
    stopwatch = HostStopwatch(bench.device)
    with timed_parts(bench.assembly, stopwatch), timed_updates(bench.trainer.updates, stopwatch):
        if bench.device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        bench.trainer.step = number
        bench.trainer.train_step()
        done = time.perf_counter()
    return {
        "leaves": {name: round(at - begun, 4) for name, at in stopwatch.left.items()},
        "host_seconds": {name: round(spent, 4) for name, spent in stopwatch.seconds.items()},
        "step": round(done - begun, 4),
    }


def busy(bench: Bench, number: int) -> dict[str, Any]:
    """Device seconds of one step, launches, and what the host spends most on."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        bench.step(number, SilentStopwatch(bench.device))
    rows = profiler.key_averages()
    device = sum(row.self_device_time_total for row in rows if row.self_cpu_time_total == 0)
    calls = {row.key: row.count for row in rows if row.key.startswith("cuda")}
    slow = sorted(rows, key=lambda row: -row.self_cpu_time_total)[:14]
    return {
        "device_seconds": round(device / 1e6, 4),
        "calls": calls,
        "host_top_ms": [[row.key[:60], round(row.self_cpu_time_total / 1e3, 1), row.count] for row in slow],
    }


def waits(bench: Bench, number: int) -> dict[str, int]:
    """Lines of Python at which the host waits for the device in one step, as torch warns of them."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            bench.step(number, SilentStopwatch(bench.device))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found: dict[str, int] = {}
    for one in heard:
        if "synchroniz" in str(one.message):
            where = f"{one.filename.rsplit('vader', 1)[-1][-60:]}:{one.lineno}"
            found[where] = found.get(where, 0) + 1
    return found


def say(**facts: Any) -> None:
    """One JSON line."""
    print(json.dumps(facts), flush=True)


def reserved() -> dict[str, float]:
    """GiB that the allocator holds, and held at most."""
    if not torch.cuda.is_available():
        return {}
    return {
        "allocated_peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "reserved_gib": round(torch.cuda.memory_reserved() / 2**30, 2),
    }


def ready(bench: Bench, about: dict[str, Any]) -> list[str]:
    """Two steps each way, in which the graphs are captured; the ways that succeed."""
    cuda = bench.device.type == "cuda"
    able = []
    for way in WAYS if cuda else WAYS[:1]:
        choose(bench.assembly, way)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        try:
            for number in range(2):
                bench.step(number, SilentStopwatch(bench.device))
        except Exception:  # the other ways are still wanted
            say(**about, way=way, failed=traceback.format_exc()[-6000:])
            continue
        able.append(way)
        say(**about, way=way, first_seconds=round(time.perf_counter() - begun, 1), **reserved())
    return able


def run(options: argparse.Namespace, assembly: Assembly) -> None:
    """All ways on one loaded model."""
    bench, silent = Bench(assembly), SilentStopwatch(assembly.device)
    about = {"model": options.model, "batch": options.batch}
    able = ready(bench, about)
    choose(assembly, "eager")
    wanted = gradient(bench)
    for way in able:
        choose(assembly, way)
        say(**about, way=way, gradient_apart=[apart(gradient(bench), wanted) for _ in range(2)])
    seconds: dict[str, list[float]] = {way: [] for way in able}
    for number in range(options.turns):
        for way in able:
            choose(assembly, way)
            begun = silent.now()
            bench.step(number, silent)
            seconds[way].append(silent.now() - begun)
    for way, taken in seconds.items():
        around = [round(edge(taken), 4) for edge in (min, max)]
        steps = [round(one, 4) for one in taken]
        say(**about, way=way, seconds=round(statistics.median(taken), 4), range=around, steps=steps)
    for way in able:
        choose(assembly, way)
        say(**about, way=way, host=host(bench, options.turns))
        if assembly.device.type == "cuda" and not options.quick:
            say(**about, way=way, waits=waits(bench, options.turns))
            say(**about, way=way, profile=busy(bench, options.turns))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="no profile")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    registry = load_registry()
    assembly = assemble(options, registry)
    name = torch.cuda.get_device_name() if assembly.device.type == "cuda" else "cpu"
    say(model=options.model, device=name, torch=torch.__version__, video=str(assembly.geometry))
    with process_switches(assembly.config):
        run(options, assembly)


if __name__ == "__main__":
    main()
