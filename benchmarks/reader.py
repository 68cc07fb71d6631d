"""How fast clips are read, and whether a training step ever waits for them.

    python benchmarks/reader.py --clips 40 --height 720 --width 1280 --frames 32 --interval 4 --size 360x640

Draws moving clips of H.264 into a temporary folder, reads each as a run does (seek, decode, resize, cut), and
prints clips per second and core: clips over processor seconds. Then it takes steps whose device work
is a sleep of a second, at ``--batch`` clips, and prints how long each step waited for its batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch

from vader_core.data.clips import probe
from vader_core.data.frame_masks import SeededDraws
from vader_core.data.frame_rule import FrameRule
from vader_core.data.plan import OneSize
from vader_core.data.reader import Reader
from vader_core.geometry import Geometry
from vader_core.prompts import Clip, Prompt
from vader_core.training.video_batches import VideoBatches


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each file, at 30 frames per second")
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--interval", type=int, default=4)
    parser.add_argument("--size", default="360x640", help="what clips are brought to")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--step-seconds", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def draw(path: Path, frames: int, height: int, width: int, seed: int) -> None:
    """A clip whose texture pans, coded as cameras and cutters do: a key frame every two seconds."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 8 + 1, (width + 8 * frames) // 8 + 1, 3), dtype=np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "g": "60"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            part = picture[:height, 4 * number : 4 * number + width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(part), "rgb24")))
        container.mux(stream.encode())


def main() -> None:
    """Measure and print one JSON object."""
    asked = options()
    torch.set_num_threads(1)
    height, width = (int(side) for side in asked.size.split("x"))
    geometry = Geometry(height, width, asked.frames, 30.0 / asked.interval)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.mp4" for number in range(asked.clips)]
        for number, path in enumerate(paths):
            draw(path, int(30 * asked.seconds), asked.height, asked.width, number)
        clips, shapes = (
            [Prompt("a clip", video=Clip(path)) for path in paths],
            [probe(path) for path in paths],
        )
        reader = Reader(FrameRule("open_sora", asked.interval, 30.0))
        busy, begun = time.process_time(), time.perf_counter()
        for number, (prompt, shape) in enumerate(zip(clips, shapes, strict=True)):
            reader.filled(prompt, asked.frames, (height, width), SeededDraws(number), shape)
        busy, wall = time.process_time() - busy, time.perf_counter() - begun
        waits = steps(asked, clips, shapes, reader, geometry)
    found = {
        "file": f"{asked.seconds:g} s of {asked.height}x{asked.width}",
        "read": f"{asked.frames} frames, one in {asked.interval}, at {height}x{width}",
        "clips_per_second_and_core": asked.clips / busy,
        "clips_per_second_of_one_reader": asked.clips / wall,
        "batch": asked.batch,
        "workers": asked.workers,
        "step_seconds": asked.step_seconds,
        "waited_first": waits[0],
        "waited_median": statistics.median(waits[1:]),
        "waited_most": max(waits[1:]),
    }
    print(json.dumps(found))


def steps(
    asked: argparse.Namespace, clips: list[Prompt], shapes: list, reader: Reader, geometry: Geometry
) -> list[float]:
    """Seconds that each step waits for its batch; the rest of a step is a sleep."""
    numbers = list(range(1, len(clips) + 1))
    plan = OneSize(clips, shapes, numbers, reader.rule, geometry=geometry, batch_size=asked.batch, seed=0)
    batches = VideoBatches(
        plan,
        reader,
        size_of=lambda geometry: (geometry.height, geometry.width),
        finished=list,
        seed=0,
        accumulate=1,
        workers=asked.workers,
        limit=0.1,
        say=print,
    )
    waits = []
    for step in range(asked.steps):
        begun = time.perf_counter()
        batches.at(step, 0, 0, 1)
        waits.append(time.perf_counter() - begun)
        time.sleep(asked.step_seconds)
    batches.close()
    return waits


if __name__ == "__main__":
    main()
