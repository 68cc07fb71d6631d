"""What sampling costs: seconds per guided step, decoding and encoding alone, peaks; random weights.

    python benchmarks/generation.py easyanimate --height 384 --width 672 --frames 144 --steps 5 --of 50

``seconds_for_all_steps`` is the time of a step times ``--of``: so many steps are not run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from vader_core.api.configure import complete, configure
from vader_core.assembly.levers import process_switches, pull_levers
from vader_core.assembly.loading import load_backbone
from vader_core.assembly.prepare import prepare
from vader_core.device import GIB
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry

PROMPT = "a red ball moving left on a blue background"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbone")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--steps", type=int, default=5, help="guided steps that are timed")
    parser.add_argument("--of", type=int, default=50, help="steps of a whole video")
    parser.add_argument("--encode", action="store_true", help="time the encoder too")
    parser.add_argument("--option", action="append", default=[], metavar="K=V", help="of the backbone")
    return parser.parse_args()


def timed(run: Callable[[], Any], device: torch.device, times: int) -> dict[str, float]:
    """Median seconds of ``run`` after one that is not counted, and the peak."""
    seconds = []
    run()
    for _ in range(times):
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0
    return {"seconds": statistics.median(seconds), "peak_allocated_gib": peak}


@torch.no_grad()
def main() -> None:
    """Measure and print one JSON object."""
    asked = options()
    registry = load_registry()
    video = {"height": asked.height, "width": asked.width, "num_frames": asked.frames}
    given = dict(word.split("=", 1) for word in asked.option)
    config = configure(
        registry=registry,
        backbone={"name": asked.backbone, "weights": "random", **given},
        video={key: value for key, value in video.items() if value is not None},
        prompts=f"text:{PROMPT}",
    )
    assembly = prepare(complete(config, registry, training=False), registry)
    model, backbone, device, geometry = (
        assembly.model,
        assembly.backbone,
        assembly.device,
        assembly.geometry,
    )
    with process_switches(assembly.config):
        load_backbone(assembly)
        pull_levers(assembly)
        prompts, rng = [Prompt(PROMPT)], Randomness(0, samples=(0,))
        with model.autocast():
            conditioning = model.condition(prompts, geometry, rng)
            backbone.release_text_encoder()
            latents = backbone.initial_noise(1, geometry, rng)
            timestep = model.plan(geometry).timesteps[0]
            with model.without_graph(0):
                step = timed(lambda: model.predict(latents, timestep, conditioning), device, asked.steps)
            model.end_levers()
            decode = timed(lambda: backbone.decode(latents, geometry), device, 1)
            found = {
                "backbone": asked.backbone,
                "video": str(geometry),
                "guided_step": step,
                "seconds_for_all_steps": asked.of * step["seconds"],
                "steps": asked.of,
                "decode": decode,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            }
            if asked.encode:
                height, width = backbone.video_size(geometry)
                pixels = rng.normal("pixels", (geometry.num_frames, 3, height, width)).sigmoid().to(device)
                found["encode"] = timed(lambda: backbone.encode_video(pixels, rng), device, 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
