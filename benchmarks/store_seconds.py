"""Seconds per update from a latent store and with a few-step student, beside a normal step.

    python benchmarks/store_seconds.py videocrafter
    python benchmarks/store_seconds.py wan --rows normal store free
    python benchmarks/store_seconds.py videocrafter --tiny          the same on the CPU, at tiny size

Weights are random and of the model's size; the reward is HPS on one frame. `normal` makes a rollout for every
update, `store` one for four updates, `free` none (a bank that is there). `student` makes a rollout of 4 steps
without guidance for every update, with a frozen adapter of rank 64 on every linear layer and convolution,
`student-store` one for four updates. Seconds are the mean over two whole cycles. Each row prints its JSON
line when it is done; one that is over its limit says so, and the next begins.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vader_core.api.bench import with_prompts, with_random_files
from vader_core.api.configure import complete, configure
from vader_core.assembly.levers import process_switches
from vader_core.assembly.parts import ROLLOUT_ADAPTER, Assembly
from vader_core.assembly.prepare import make_objective, prepare
from vader_core.lora.formats import Adapter
from vader_core.method.model import Student
from vader_core.profiling.bench import Bench, load
from vader_core.profiling.stopwatch import SilentStopwatch
from vader_core.registry import Registry, load_registry
from vader_core.run.layers import changed

FAST = {"cuda_graphs": True, "fold_adapter": True, "gradient_checkpointing": False}
#: Backbone, its tiny form, and what the run is given beside it.
MODELS: dict[str, dict[str, Any]] = {
    "videocrafter": {"backbone": {"name": "videocrafter"}, "performance": FAST},
    "opensora": {"backbone": {"name": "opensora"}, "performance": FAST},
    "wan": {
        "backbone": {"name": "wan", "model": "2.1-1.3b"},
        "video": {"height": 480, "width": 832, "num_frames": 17},
        "performance": {"gradient_checkpointing": True},
    },
}
TINY: dict[str, dict[str, Any]] = {
    "videocrafter": {"backbone": {"name": "videocrafter", "architecture": "tiny"}},
    "opensora": {"backbone": {"name": "opensora", "architecture": "tiny"}},
    "wan": {"backbone": {"name": "wan", "architecture": "tiny"}},
}
#: Store size 1: updates per rollout (0 is for good), and whether a student makes it.
ROWS: dict[str, tuple[int, bool] | None] = {
    "normal": None,
    "store": (4, False),
    "free": (0, False),
    "student": (1, True),
    "student-store": (4, True),
}
STUDENT_RANK, STUDENT_STEPS = 64, 4
CYCLES = 2


def assemble(model: str, registry: Registry, *, tiny: bool) -> Assembly:
    """The loaded model with its reward, and its levers pulled."""
    given = TINY[model] if tiny else MODELS[model]
    reward = {"name": "hps"} | ({"architecture": "tiny"} if tiny else {})
    if tiny:
        given = {**given, "sampler": {"num_steps": 4}}
    config = configure(registry=registry, reward=[reward], validation={"prompts": 0}, **given)
    config = with_prompts(with_random_files(config, registry), registry)
    assembly = prepare(complete(config, registry), registry)
    return load(assembly, steps=4 * (CYCLES + 1) + 1)


def distilled(denoiser: nn.Module) -> Adapter:
    """A random adapter of the size that T2V-Turbo's has: every linear layer and convolution."""
    tensors = {}
    for name, layer in denoiser.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d) and ".lora_" not in name:
            out, into, *kernel = layer.weight.shape
            module, rank = name.removesuffix(".base_layer"), min(STUDENT_RANK, out, into)
            tensors[f"{module}.lora_A.weight"] = 0.01 * torch.randn(rank, into, *kernel)
            tensors[f"{module}.lora_B.weight"] = 0.01 * torch.randn(out, rank, *(1 for _ in kernel))
    return Adapter(tensors, STUDENT_RANK, float(STUDENT_RANK))


def with_row(assembly: Assembly, row: str, registry: Registry) -> None:
    """Make the assembly that of a row."""
    assert assembly.objective is not None
    asked = ROWS[row]
    model, steps = assembly.model, int(assembly.config.sampler.num_steps or 1)
    options: dict[str, Any] = (
        {"gradient": f"steps:{steps // 2}"} if asked is not None else {"gradient": "last"}
    )
    model.student = None
    if asked is not None:
        refresh, by_student = asked
        options |= {"store": "rollouts", "store_size": 1, "store_refresh": refresh}
        if by_student:
            tuning: Any = model.tuning
            if ROLLOUT_ADAPTER not in tuning.beside:
                tuning.add(ROLLOUT_ADAPTER, distilled(assembly.backbone.denoiser), 0.0)
            guidance = replace(model.guidance, scale=1.0)
            model.student = Student(model.sampler, guidance, min(STUDENT_STEPS, steps), ROLLOUT_ADAPTER)
    tree = {name: {"weight": None} for name in assembly.config.objective} | {"reward_gradient": options}
    config = changed(assembly.config, objective=tree)
    assembly.objective = make_objective(config, registry, assembly.backbone)
    assert assembly.objective is not None
    assembly.objective.use(assembly.rewards)


def measured(assembly: Assembly, row: str, registry: Registry) -> dict[str, Any]:
    """Warm up for a cycle, then time two."""
    with_row(assembly, row, registry)
    asked = ROWS[row]
    cycle = 4 if asked is not None and asked[0] == 4 else 2
    bench, stopwatch = Bench(assembly), SilentStopwatch(assembly.device)
    for number in range(cycle):
        bench.step(number, stopwatch)
    seconds = []
    for number in range(cycle, cycle * (1 + CYCLES)):
        begun = stopwatch.now()
        bench.step(number, stopwatch)
        seconds.append(stopwatch.now() - begun)
    found: dict[str, Any] = {
        "seconds_per_update": round(statistics.mean(seconds), 4),
        "updates": [round(one, 4) for one in seconds],
    }
    if assembly.device.type == "cuda":
        found["peak_allocated_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Within, ``TimeoutError`` is raised once the time is over."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--limit", type=int, default=60, help="seconds of a row")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    registry = load_registry()
    begun = time.perf_counter()
    assembly = assemble(options.model, registry, tiny=options.tiny)
    facts = {
        "model": options.model,
        "video": str(assembly.geometry),
        "sampler": f"{assembly.config.sampler.name}, {assembly.config.sampler.num_steps} steps",
        "guidance": assembly.config.sampler.guidance_scale,
        "device": torch.cuda.get_device_name() if assembly.device.type == "cuda" else "cpu",
        "loading_seconds": round(time.perf_counter() - begun, 1),
    }
    print(json.dumps(facts), flush=True)
    with process_switches(assembly.config):
        for row in options.rows:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            try:
                with limited(options.limit):
                    found = measured(assembly, row, registry)
            except Exception as error:  # the other rows are still wanted
                found = {"error": f"{type(error).__name__}: {error}"[:400]}
            print(json.dumps({"model": options.model, "row": row, **found}), flush=True)


if __name__ == "__main__":
    main()
