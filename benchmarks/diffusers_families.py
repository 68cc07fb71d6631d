"""What a reward step of diffusers' families costs at full size: seconds by phase, floor, peak, estimate.

    python benchmarks/diffusers_families.py --paper --out paper.json      # on a CPU: estimates and operations
    python benchmarks/diffusers_families.py --paper-from paper.json       # on a GPU: a process per row
    python benchmarks/diffusers_families.py --tiny                        # a rehearsal on a CPU

Random weights, batch 1, LoRA of rank 16, HPS on the first frame, the gradient in the last step. Where fewer
steps are run than the published number, the no-grad steps that are left out are counted up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FAST = {"attention_backend": "_native_cudnn"}
LEAN = {"offload": True, "offload_activations": True}
COMPILED = {"performance": {"fold_adapter": True, "compile_blocks": "all"}}


def _with(sections: dict[str, Any], **performance: Any) -> dict[str, Any]:
    return {**sections, "performance": {**sections["performance"], **performance}}


#: By name, in the order of their worth: backbone, its options, other sections, steps that are run (``None``
#: is all), seconds that the row may take.
ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int | None, int]] = {
    "wan-1.3b": ("wan", {"model": "2.1-1.3b"}, {}, 4, 70),
    "cogvideox-2b": ("cogvideox", {"model": "2b"}, {}, 4, 75),
    "wan-1.3b-fast": (
        "wan",
        {"model": "2.1-1.3b", **FAST},
        {"performance": {"fold_adapter": True}},
        4,
        60,
    ),
    "ltx-2b": ("ltx", {"model": "2b"}, {}, 6, 40),
    "ltx-2b-fast": (
        "ltx",
        {"model": "2b"},
        {"performance": {"fold_adapter": True, "cuda_graphs": True}},
        6,
        45,
    ),
    "wan-14b": ("wan", {"model": "2.1-14b", **FAST}, {"sampler": {"split_guidance": True}}, 4, 170),
    "wan-5b": ("wan", {"model": "2.2-5b", **FAST}, {}, 4, 90),
    "wan-1.3b-lean": (
        "wan",
        {"model": "2.1-1.3b", "vae_dtype": "same"},
        {"sampler": {"split_guidance": True}, "performance": LEAN},
        4,
        60,
    ),
    "cogvideox-2b-fast": (
        "cogvideox",
        {"model": "2b", **FAST},
        {"performance": {"fold_adapter": True}},
        4,
        60,
    ),
    "ltx-2b-compiled": ("ltx", {"model": "2b"}, COMPILED, 6, 150),
    "ltx-2b-compiled-fast": ("ltx", {"model": "2b", **FAST}, COMPILED, 6, 150),
    "cogvideox-2b-compiled": ("cogvideox", {"model": "2b", **FAST}, COMPILED, 4, 170),
    "ltx-2b-graphs": ("ltx", {"model": "2b"}, _with(COMPILED, cuda_graphs=True), 6, 150),
    "ltx-2b-fastest": (
        "ltx",
        {"model": "2b"},
        _with(COMPILED, cuda_graphs=True, gradient_checkpointing=False),
        6,
        150,
    ),
    "cogvideox-2b-fastest": (
        "cogvideox",
        {"model": "2b", **FAST},
        _with(COMPILED, gradient_checkpointing=False),
        4,
        170,
    ),
    "wan-1.3b-compiled": ("wan", {"model": "2.1-1.3b", **FAST}, COMPILED, 4, 150),
    "wan-1.3b-last-2": (
        "wan",
        {"model": "2.1-1.3b"},
        {"objective": {"reward_gradient": {"gradient": "last:2"}}},
        4,
        60,
    ),
}
#: Rows whose warm-up is the differentiated step alone.
LARGE = ("wan-14b", "wan-5b")
TINY = {"2.1-1.3b": "tiny", "2.1-14b": "tiny", "2.2-5b": "tiny-5b", "2b": "tiny"}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", choices=ROWS, help="only these (repeat)")
    parser.add_argument("--here", action="store_true", help="measure in this process; one row")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("--paper", action="store_true", help="estimates and operations alone")
    parser.add_argument("--paper-from", type=Path, help="file of --paper, to set beside what is measured")
    parser.add_argument("--within", type=float, default=420.0, help="seconds for all rows")
    parser.add_argument("--out", type=Path, help="write a JSON list to this file, row by row")
    return parser.parse_args()


def configured(name: str, *, tiny: bool) -> Any:
    """The row's configuration, and the registry."""
    from vader_core.api.configure import configure
    from vader_core.registry import load_registry

    backbone, given, sections, _, _ = ROWS[name]
    registry, model = load_registry(), given["model"]
    sections = {key: dict(value) for key, value in sections.items()}
    sections.setdefault("objective", {"reward_gradient": {"gradient": "last"}})
    performance = {"gradient_checkpointing": True, **sections.pop("performance", {})}
    if tiny:
        given = {key: value for key, value in given.items() if key != "attention_backend"}
        performance = {"gradient_checkpointing": True}
        sections.pop("sampler", None)
    config = configure(
        registry=registry,
        backbone={"name": backbone, "weights": "random", **given, "model": TINY[model] if tiny else model},
        reward={"name": "hps", "weights": "random"},
        prompts="text:a red boat on a calm lake at sunrise",
        lora={"rank": 16, "alpha": 16},
        trainer={"batch_size": 1, "accumulate": 1, "precision": "fp32" if tiny else "bf16"},
        performance=performance,
        **sections,
    )
    return config, registry


def on_paper(name: str, *, tiny: bool) -> dict[str, Any]:
    """The memory estimate and the counted operations, for a CUDA device.

    A no-grad step more is as many operations more, so steps of two short rollouts are counted.
    """
    from vader_core.api.configure import complete
    from vader_core.profiling.estimate import count_operations, memory_facts
    from vader_core.run.layers import changed

    config, registry = configured(name, tiny=tiny)
    facts = memory_facts(config, registry, validation=False)
    published = int(complete(config, registry).sampler.num_steps or 0)
    few, more = (
        count_operations(changed(config, sampler={"num_steps": steps}), registry) for steps in (2, 3)
    )
    return {"row": name, **facts, "tera_operations": (few + (published - 2) * (more - few)) / 1e12}


def measured(name: str, *, tiny: bool) -> dict[str, Any]:
    """One reward step, after a short one that warms up; synchronised at every phase."""
    import torch

    from vader_core.api.configure import complete
    from vader_core.assembly.levers import process_switches
    from vader_core.assembly.prepare import prepare
    from vader_core.profiling.bench import Bench, load, matrix_rate
    from vader_core.profiling.stopwatch import Stopwatch, timed_parts

    begun = time.perf_counter()
    config, registry = configured(name, tiny=tiny)
    kept = 2 if config.objective["reward_gradient"].options["gradient"] == "last:2" else 1
    assembly = prepare(complete(config, registry), registry)
    model, device = assembly.model, assembly.device
    published, asked = model.num_steps, ROWS[name][3]
    with process_switches(assembly.config):
        load(assembly, 2)
        bench = Bench(assembly)
        loaded = Stopwatch(device).now() - begun
        stage(name, "loaded", loaded)
        model.num_steps = 1 if name in LARGE else 2
        model._plans.clear()
        first = Stopwatch(device)
        with timed_parts(assembly, first):
            bench.step(0, first)
        stage(name, "warm", first.now() - begun, phases=dict(first.seconds))
        model.num_steps = min(4, published) if tiny else asked or published
        model._plans.clear()
        watch = Stopwatch(device)
        with timed_parts(assembly, watch):
            start = watch.now()
            watch.take_peak()
            loss = bench.step(1, watch)
            seconds = watch.now() - start
            watch.note_peak("other")
    one = watch.seconds["no-grad steps"] / max(1, model.num_steps - kept)
    return {
        "row": name,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "video": str(assembly.geometry),
        "steps_run": model.num_steps,
        "steps_published": published,
        "seconds_run": seconds,
        "seconds_per_no_grad_step": one,
        "seconds_per_step": seconds + (published - model.num_steps) * one,
        "phases": {**watch.seconds, "other": seconds - sum(watch.seconds.values())},
        "peak_allocated_gib": max(watch.peaks.values()),
        "phase_peaks_gib": dict(watch.peaks),
        "matrix_rate_tera": matrix_rate(device, assembly.dtype) / 1e12,
        "loading_seconds": loaded,
        "loss": loss,
    }


def stage(name: str, what: str, seconds: float, **more: Any) -> None:
    """Say how far a row has come, for one that does not end in time."""
    print(json.dumps({"row": name, "stage": what, "seconds": seconds, **more}), flush=True)


def beside(found: dict[str, Any], paper: dict[str, Any] | None) -> dict[str, Any]:
    """With the floor and the estimate, where they were counted before."""
    if paper is None or "seconds_per_step" not in found:
        return found
    floor = paper["tera_operations"] / found["matrix_rate_tera"]
    estimate = paper["estimated_peak_gib"]
    return {
        **found,
        "tera_operations": paper["tera_operations"],
        "floor_seconds": floor,
        "ratio_to_floor": found["seconds_per_step"] / floor,
        "estimated_peak_gib": estimate,
        "estimate_error": estimate / found["peak_allocated_gib"] - 1 if estimate else None,
    }


def in_a_process(name: str, asked: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """The row's JSON from a process of its own, which may not take longer."""
    words = [sys.executable, __file__, "--here", "--row", name]
    words += ["--tiny"] * asked.tiny + ["--paper"] * asked.paper
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        told = (error.stdout or b"").decode().splitlines()
        return {"row": name, "failed": f"not done after {seconds:.0f} seconds", "stages": told}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr or done.stdout).splitlines()[-6:]
        return {"row": name, "failed": "\n".join(last), "stages": lines}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    """Print a JSON line per row as soon as it is there."""
    asked, begun = options(), time.perf_counter()
    names = asked.row or list(ROWS)
    if asked.here:
        print(json.dumps((on_paper if asked.paper else measured)(names[0], tiny=asked.tiny)))
        return
    paper = {row["row"]: row for row in json.loads(asked.paper_from.read_text())} if asked.paper_from else {}
    results = []
    for name in names:
        left = asked.within - (time.perf_counter() - begun)
        if left < 20:
            print(json.dumps({"row": name, "failed": "no time was left"}), flush=True)
            continue
        found = in_a_process(name, asked, left if asked.paper else min(left, ROWS[name][4]))
        results.append(beside(found, paper.get(name)))
        print(json.dumps(results[-1]), flush=True)
        if asked.out is not None:
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
