"""What a supervised update costs: seconds, peak memory, clips per GPU-hour; random weights and pixels.

    python benchmarks/fine_tuning.py opensora11 --tune full --height 360 --width 640 --frames 32 --batch 4

Clips are random pixels, which the model's autoencoder encodes at every step; ``--encoded`` does so before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vader_core.api.configure import complete, configure
from vader_core.assembly.levers import process_switches, pull_levers
from vader_core.assembly.loading import attach, load_backbone
from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.method.objective import Batch
from vader_core.prompts import Clip, Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.training.optimizer import Updates
from vader_core.training.processes import SingleProcess

PROMPT = "a red ball moving left on a blue background"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbone")
    parser.add_argument("--tune", choices=["lora", "full"], default="lora")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--encoded", action="store_true", help="encode the clips once, before the steps")
    parser.add_argument("--option", action="append", default=[], metavar="K=V", help="of the backbone")
    parser.add_argument("--performance", action="append", default=[], metavar="K=V")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def pairs(words: list[str]) -> dict[str, Any]:
    """``K=V`` words as values."""
    from vader_core.values import parse_value

    return {key: parse_value(value) for key, _, value in (word.partition("=") for word in words)}


def batch_of(geometry: Any, size: tuple[int, int], count: int, step: int) -> Batch:
    """A batch of random pixels."""
    rng = Randomness(0, step, samples=tuple(range(step * count, (step + 1) * count)))
    pixels = rng.normal("pixels", (geometry.num_frames, 3, *size)).sigmoid()
    prompts = [Prompt(PROMPT, video=Clip(Path("random"), pixels=one)) for one in pixels]
    return Batch(prompts, geometry, rng)


def encoded_once(model: Any, batch: Batch) -> Batch:
    """The same batch as latents."""
    from vader_core.method.supervised import encode

    latents = encode(model, batch).latents.cpu()
    clips = [
        replace(prompt, video=Clip(Path("random"), latents=one))
        for prompt, one in zip(batch.prompts, latents, strict=True)
    ]
    return Batch(clips, batch.geometry, batch.rng)


def main() -> None:
    """Measure and print one JSON object."""
    asked = options()
    registry = load_registry()
    video = {"height": asked.height, "width": asked.width, "num_frames": asked.frames}
    config = configure(
        registry=registry,
        backbone={"name": asked.backbone, "weights": "random", **pairs(asked.option)},
        video={key: value for key, value in video.items() if value is not None},
        prompts=f"text:{PROMPT}",
        objective={"supervised": {"weight": 1.0}},
        tuning={"kind": asked.tune},
        lora={"rank": asked.rank} if asked.tune == "lora" else {},
        trainer={"batch_size": asked.batch},
        performance=pairs(asked.performance),
    )
    assembly = prepare(complete(config, registry), registry)
    model, objective, device = assembly.model, assembly.objective, assembly.device
    with process_switches(assembly.config):
        load_backbone(assembly)
        with torch.no_grad(), model.autocast():
            assembly.backbone.encode_text([Prompt(PROMPT), Prompt("")])
        assembly.backbone.release_text_encoder()
        attach(assembly)
        pull_levers(assembly)
        processes = SingleProcess(device)
        updates = Updates(model.tuning, assembly.config.trainer, processes)
        size = assembly.backbone.video_size(assembly.geometry)
        seconds: list[float] = []
        for step in range(asked.steps + 2):
            batch = batch_of(assembly.geometry, size, asked.batch, step)
            if asked.encoded:
                batch = encoded_once(model, batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            begun = time.perf_counter()
            prepared = objective.prepare(model, [{"videos": batch}], processes)
            with updates.update() as backward:
                result = objective.step(model, prepared[0], backward, 0)
            float(result.loss)
            seconds.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0
    median = statistics.median(seconds[2:])
    trained = sum(value.numel() for value in model.tuning.parameters().values())
    found = {
        "backbone": asked.backbone,
        "tune": asked.tune,
        "video": str(assembly.geometry),
        "batch": asked.batch,
        "encoded": asked.encoded,
        "performance": asked.performance,
        "seconds_per_step": median,
        "range": [min(seconds[2:]), max(seconds[2:])],
        "peak_allocated_gib": peak,
        "clips_per_gpu_hour": 3600 * asked.batch / median,
        "trained_parameters": trained,
        "loss": float(result.loss),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    print(json.dumps(found))
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
