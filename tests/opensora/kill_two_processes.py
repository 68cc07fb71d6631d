"""Kill two processes that learn from clips in buckets, in two stages, and resume them.

Nothing may differ in the end.

    python tests/opensora/kill_two_processes.py --kills 10 --steps 100 --folder /some/empty/folder

In turns everything is killed, or one of the two alone: then the launcher ends the other.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np

#: Height, width and frames of the clips: two shapes, three lengths.
CLIPS = [((144, 256), 9), ((256, 144), 9), ((144, 256), 6), ((256, 144), 6), ((192, 192), 12)] * 2
SETTINGS = (
    "--backbone opensora11 --weights random -o backbone.architecture=tiny --device cpu --num-frames 4 "
    "--objective supervised --lora-rank 2 --lr 0.01 --num-processes 2 -o data.frame_interval=1 "
    "-o data.held_out=0 -o validation.prompts=0 -o run.trackers=[] -o run.checkpoint_every=5 "
    "-o trainer.ema=0.9"
).split()
BUCKETS = {"144p": {"4": [0.9, 2], "8": [0.8, 1]}}


def draw(folder: Path) -> None:
    """Small clips of noise with captions."""
    for number, ((height, width), frames) in enumerate(CLIPS):
        rng = np.random.default_rng(number)
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for _ in range(frames):
                picture = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(picture.repeat(8, 0).repeat(8, 1), "rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        (folder / f"{number}.txt").write_text(f"clip {number}")


def started(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The command line, in the background."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"}
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "vader_core", "train", *arguments]
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)


def below(number: int) -> list[int]:
    """Every process below ``number``, itself last; ranks come before their launcher."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    for child in children.get(number, []):
        found += below(child)
    return [*found, number]


def end(number: int) -> None:
    """SIGKILL, to a process that may be gone."""
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        return


def steps_done(run: Path) -> int:
    """Training steps that the run has recorded."""
    found = [run / "stages" / name / "metrics.jsonl" for name in ("1", "2")]
    return sum(path.read_text().count('"kind": "train"') for path in found if path.is_file())


def losses(run: Path) -> list[tuple[str, int, float]]:
    """The loss of every step: it tells which samples, noise and weights it was computed from."""
    found = []
    for name in ("1", "2"):
        lines = (run / "stages" / name / "metrics.jsonl").read_text().splitlines()
        records = [record for record in map(json.loads, lines) if record["kind"] == "train"]
        assert [record["step"] for record in records] == list(range(1, len(records) + 1))
        found += [(name, record["step"], record["loss"]) for record in records]
    return found


def adapter(run: Path) -> bytes:
    """The final weights."""
    return sorted((run / "stages/2/checkpoints").glob("step-*/adapter_model.safetensors"))[-1].read_bytes()


def settings(folder: Path, steps: int) -> Path:
    """The run's settings: half of the steps in each of two stages that take everything over."""
    path = folder / "stages.json"
    first = {"trainer": {"max_steps": steps // 2}}
    second = {
        "trainer": {"max_steps": steps - steps // 2},
        "seam": {"optimizer": "kept", "schedule": "continued"},
    }
    path.write_text(json.dumps({"data": {"buckets": BUCKETS}, "stages": [first, second]}))
    return path


def main() -> int:
    """Run whole, run killed, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    clips, log = given.folder / "clips", given.folder / "log.txt"
    clips.mkdir()
    draw(clips)
    begin = [*SETTINGS, "--data", f"videos:{clips}", "--quiet"]
    begin += ["--config", str(settings(given.folder, given.steps))]
    whole, broken = given.folder / "whole", given.folder / "broken"
    assert started([*begin, "--out", str(whole)], log).wait() == 0, log.read_text()
    generator = random.Random(given.seed)
    moments = sorted(generator.sample(range(1, given.steps), given.kills))
    for count, moment in enumerate(moments):
        resumed = (broken / "config.yaml").is_file()
        process = started(
            ["--resume", str(broken), "--num-processes", "2", "--quiet"]
            if resumed
            else [*begin, "--out", str(broken)],
            log,
        )
        while process.poll() is None and steps_done(broken) < moment:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.05))
        assert process.poll() is None, log.read_text()
        running = below(process.pid)
        for number in running[:1] if count % 2 else reversed(running):
            end(number)
        process.wait()
        for number in running:
            end(number)
        print(f"killed {'one rank' if count % 2 else 'all'} at step {steps_done(broken)}", flush=True)
    assert started(["--resume", str(broken), "--num-processes", "2", "--quiet"], log).wait() == 0, (
        log.read_text()
    )
    assert losses(broken) == losses(whole), "another sequence of losses"
    assert len(losses(whole)) == given.steps
    assert adapter(broken) == adapter(whole), "other weights"
    print(f"{given.kills} kills, {given.steps} steps on 2 processes: the same losses, the same bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
