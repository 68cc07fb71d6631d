"""Kill a training at random moments and resume it; the final adapter must be the uninterrupted run's.

    python tests/core/kill_and_resume.py --kills 3 --folder /some/empty/folder

Imports once and forks a child for every run, so that a hundred kills take minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from vader_core.cli import run
from vader_core.cli import train as train_module
from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin

STEPS = 20
SETTINGS = (
    "--backbone tiny --reward brightness --monitor motion --prompts fixed --max-steps 20 --lr 0.01 "
    "--lora-rank 2 --num-steps 3 --keep 0 -o validation.prompts=0 -o run.checkpoint_every=1 "
    "-o run.trackers=[] -o trainer.ema=0.9 -o trainer.warmup_steps=3 -o lora.dropout=0.1 --device "
    "cpu"
).split()


def child(arguments: list[str], log: Path) -> int:
    """Run the command in a forked child and return its process number."""
    number = os.fork()
    if number:
        return number
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        code = 1
        try:
            code = run(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def wait(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def wait_for_step(folder: Path, step: int, deadline: float) -> None:
    """Wait until the run has logged ``step``, so that kills fall over the whole run."""
    until = time.perf_counter() + deadline
    metrics = folder / "metrics.jsonl"
    while time.perf_counter() < until:
        if step == 0 or (metrics.is_file() and metrics.read_text().count('"kind": "train"') >= step):
            return
        time.sleep(0.002)


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "checkpoints" / f"step-{STEPS:06d}" / "adapter_model.safetensors").read_bytes()


def tear(folder: Path, generator: random.Random) -> str | None:
    """Cut the newest checkpoint's state at a random byte."""
    found = sorted((folder / "checkpoints").glob("step-*"))
    if len(found) < 2:
        return None
    victim = found[-1] / generator.choice(
        ["state.pt", "adapter_model.safetensors", "position.json", "checksums.json"]
    )
    size = victim.stat().st_size
    with victim.open("rb+") as stream:
        stream.truncate(generator.randrange(size))
    return str(victim.relative_to(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument(
        "--torn", action="store_true", help="Also truncate the newest checkpoint after each kill."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    registry = add_testing_plugin(load_registry())
    train_module.load_registry = lambda: registry
    generator = random.Random(given.seed)
    log = given.folder / "log.txt"
    whole = given.folder / "whole"
    begun = time.perf_counter()
    with log.open("a") as stream, redirect_stdout(stream), redirect_stderr(stream):
        code = run(["train", *SETTINGS, "--out", str(whole), "--quiet"])  # here: no child imports anything
    assert code == 0, log.read_text()
    seconds = time.perf_counter() - begun
    expected = adapter_bytes(whole)

    killed, torn, rounds = 0, 0, 0
    while killed < given.kills:
        broken = given.folder / f"broken-{rounds}"
        rounds += 1
        arguments = ["train", *SETTINGS, "--out", str(broken), "--quiet"]
        for _ in range(5):
            number = child(arguments, log)
            wait_for_step(broken, generator.randrange(STEPS), deadline=2 * seconds)
            time.sleep(generator.uniform(0.0, 0.03))
            os.kill(number, signal.SIGKILL)
            if wait(number) == -signal.SIGKILL:
                killed += 1
            if (broken / "config.yaml").is_file():
                arguments = ["train", "--resume", str(broken), "--quiet"]
                if given.torn and tear(broken, generator):
                    torn += 1
            if killed >= given.kills:
                break
        assert wait(child(arguments, log)) == 0, log.read_text()
        assert adapter_bytes(broken) == expected, (
            f"round {rounds}: another adapter than the uninterrupted run's"
        )
        records = [json.loads(line) for line in (broken / "metrics.jsonl").read_text().splitlines()]
        steps = [record["step"] for record in records if record["kind"] == "train"]
        assert steps == list(range(1, STEPS + 1)), f"round {rounds}: metrics of steps {steps}"
    print(f"{killed} kills, {torn} torn checkpoints, {rounds} runs resumed to the same bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
