"""Fail, or be killed, at every operation on a run's files; what is left goes on to the same bytes.

    python tests/core/faults/matrix.py --what train --folder /some/empty/folder [--how kill] [--share 1/4]

Starts itself again with the shim loaded before libc, imports once and forks a child for every moment.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

SHIM = Path(__file__).with_name("shim.c")
MODES = {"count": 1, "kill": 2, "eio": 3, "full": 4, "power": 5}
COMMON = (
    "--backbone tiny --reward brightness --monitor motion --prompts fixed --num-steps 2 --lr 0.01 "
    "--lora-rank 2 --device cpu -o run.checkpoint_every=1 "
)
TRAIN = (
    "train --max-steps 4 --keep 1 -o validation.prompts=0 -o run.trackers=[] -o trainer.ema=0.9 " + COMMON
).split()
WATCHED = (
    "train --max-steps 2 --keep 0 -o validation.prompts=1 -o validation.seeds=1 -o validation.every=1 "
    "--guard adapt " + COMMON
).split()
SAMPLE = "sample --backbone tiny --prompts fixed --num-steps 1 --max-prompts 3 --device cpu".split()


def build(folder: Path) -> Path:
    """The shim, compiled."""
    library = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    return library


class Matrix:
    """One command.

    Args:
        what: ``train``, ``watched``, ``overwrite`` or ``sample``.
        folder: An empty folder.
    """

    def __init__(self, what: str, folder: Path) -> None:
        self.what, self.how, self.folder = what, "", folder
        self.shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.shim.faults_count.restype = ctypes.c_long
        self.command = {"train": TRAIN, "watched": WATCHED, "overwrite": TRAIN, "sample": SAMPLE}[what]
        self.wrong: list[str] = []

    def arguments(self, out: Path) -> list[str]:
        """The command line."""
        quiet = [] if self.what == "sample" else ["--quiet"]
        over = ["--overwrite"] if self.what == "overwrite" else []
        return [*self.command, "--out", str(out), *quiet, *over]

    def child(self, arguments: list[str], out: Path, how: str = "off", at: int = 0) -> tuple[int, str]:
        """Run the command in a forked child; its exit code and what it said."""
        from vader_core.cli import run

        reading, writing = os.pipe()
        number = os.fork()
        if not number:
            code = 70
            try:
                os.dup2(writing, 1)
                os.dup2(writing, 2)
                os.close(reading)
                self.shim.faults_arm(str(out).encode(), MODES.get(how, 0), ctypes.c_long(at))
                code = run(arguments)
                if how == "count":
                    os.write(writing, f"\ncount {self.shim.faults_count()}".encode())
            except BaseException:
                os.write(writing, traceback.format_exc().encode())
            finally:
                self.shim.faults_arm(b"", 0, ctypes.c_long(0))
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading, errors="replace") as stream:
            said = stream.read()
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), said

    # -- one moment ----------------------------------------------------------------------------------------

    def run(self, kinds: Sequence[str], moments: int | None, seed: int, share: tuple[int, int]) -> bool:
        """Every operation, or some, with each kind of fault; whether anything was wrong.

        Args:
            kinds: Names of ``MODES``.
            moments: How many operations, at random; None for all.
            seed: Of the choice.
            share: The number, from 1, and the count of equal parts of what is chosen; one is run.
        """
        operations = self.counted()
        failed = False
        for place, self.how in enumerate(kinds):
            self.wrong = []
            chosen = list(range(1, operations + 1))
            if moments is not None:
                chosen = sorted(random.Random(seed + place).sample(chosen, min(moments, operations)))
            number, parts = share
            chosen = chosen[len(chosen) * (number - 1) // parts : len(chosen) * number // parts]
            for at in chosen:
                self.moment(at)
            found = f"{len(chosen)} of {operations} operations, {len(self.wrong)} wrong"
            print(f"{self.what}, {self.how}: {found}", flush=True)
            failed |= bool(self.wrong)
        return failed

    def counted(self) -> int:
        """How many operations there are; what the command makes is kept for comparison.

        The first run is in this process, so that the children find everything imported.
        """
        from vader_core.cli import run

        warm, whole = self.folder / "warm", self.folder / "whole"
        with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            assert run(self.arguments(warm)) == 0
        self.before(whole)
        code, said = self.child(self.arguments(whole), whole, "count")
        assert code == 0, said
        self.expected = self.results(whole)
        found = self.results(warm)
        differing = [
            name for name in found.keys() | self.expected if found.get(name) != self.expected.get(name)
        ]
        assert not differing, f"two runs differ by themselves: {differing}"
        return int(said.rpartition("count ")[2])

    def before(self, out: Path) -> None:
        """What is in the folder before the command."""
        shutil.rmtree(out, ignore_errors=True)
        if self.what == "overwrite":
            old = self.folder / "old"
            if not old.exists():
                arguments = [*WATCHED, "--seed", "9", "--out", str(old), "--quiet"]
                code, said = self.child(arguments, old)
                assert code == 0, said
            shutil.copytree(old, out)

    def moment(self, at: int) -> None:
        """Fail at operation ``at``, go on, compare."""
        out = self.folder / "out"
        self.before(out)
        code, said = self.child(self.arguments(out), out, self.how, at)
        if self.how in ("kill", "power"):
            self.check(at, code in (-signal.SIGKILL, 0), f"ended with {code}", said)
        else:
            told = [line for line in said.splitlines() if line.startswith("error: ")]
            fine = "Traceback" not in said and (code == 0 or (code == 1 and len(told) == 1))
            self.check(at, fine, f"ended with {code}", said)
        if self.what in ("train", "watched"):
            self.check(at, self.nothing_lost(out), "an announced checkpoint is lost", str(listing(out)))
        if self.what != "sample" and (out / "config.yaml").is_file():
            code, said = self.child(["train", "--resume", str(out), "--quiet"], out)
            self.check(at, code == 0, f"cannot be resumed: {code}", said)
            if self.what == "overwrite" and self.results(out) != self.expected:  # it was the old run still
                code, said = self.child(self.arguments(out), out)
                self.check(at, code == 0, f"cannot be replaced: {code}", said)
        elif code != 0:
            code, said = self.child(self.arguments(out), out)
            self.check(at, code == 0, f"cannot be started again: {code}", said)
        found = self.results(out)
        different = [name for name in self.expected if found.get(name) != self.expected[name]]
        extra = sorted(found.keys() - self.expected.keys())
        fine = not different and not extra
        if not fine:
            shutil.copytree(out, self.folder / f"wrong-{self.how}-{at}", dirs_exist_ok=True)
        self.check(at, fine, f"differs: {different} {extra}", str(listing(out)))

    def check(self, at: int, fine: bool, wrong: str, detail: str) -> None:
        """Print what is not as it should be."""
        if not fine:
            self.wrong.append(wrong)
            told = detail.strip()[-1500:].replace("\n", "\n    ")
            print(f"operation {at}: {wrong}\n    {told}", flush=True)

    # -- what is compared ----------------------------------------------------------------------------------

    def results(self, out: Path) -> dict[str, object]:
        """The bytes of a finished command's files, less what tells the time."""
        found: dict[str, object] = {}
        for path in sorted(out.rglob("*")):
            name = str(path.relative_to(out))
            if not path.is_file() or name.startswith("vader/"):
                continue
            found[name] = self.comparable(path)
        return found

    def comparable(self, path: Path) -> object:
        if path.name in (".lock", "environment.json", "report.html", "checksums.json", "state.pt"):
            return True
        if path.name == "index.html":  # its heading is the folder's name
            return path.read_text().replace(f">{path.parent.name}", ">")
        if path.name == "metrics.jsonl":
            return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
        if path.suffix == ".json":
            return without_times(json.loads(path.read_text()))
        return path.read_bytes()

    @staticmethod
    def nothing_lost(out: Path) -> bool:
        """Whether a whole checkpoint is at most one step behind the metrics."""
        from vader_core.run.checkpoint import newest_whole, step_of
        from vader_core.run.directory import Run

        steps = [record["step"] for record in Run(out).metrics() if record["kind"] == "train"]
        place, _ = newest_whole(out / "checkpoints")
        return max(steps, default=0) - 1 <= (0 if place is None else step_of(place))


def without_times(found: object) -> object:
    """JSON without what differs between two runs of the same."""
    if isinstance(found, dict):
        return {
            name: without_times(value)
            for name, value in found.items()
            if "seconds" not in name and "memory" not in name
        }
    return [without_times(value) for value in found] if isinstance(found, list) else found


def listing(out: Path) -> list[str]:
    """The names below a folder."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--what", required=True, help="train, watched, overwrite, sample; with commas between."
    )
    parser.add_argument("--how", default="kill,power,eio,full", help="Kinds of fault, with commas between.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--moments", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", default="1/1", help="I/N: the I-th of N parts of the operations.")
    given = parser.parse_args()
    folder: Path = given.folder.resolve()
    if "LD_PRELOAD" not in os.environ:
        os.environ["LD_PRELOAD"] = str(build(folder))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    prepare()
    failed = False
    number, _, parts = given.share.partition("/")
    for what in given.what.split(","):
        (folder / what).mkdir()
        matrix = Matrix(what, folder / what)
        failed |= matrix.run(given.how.split(","), given.moments, given.seed, (int(number), int(parts)))
    return failed


def prepare() -> None:
    """Import once what every child needs, with the testing plugin in the registry."""
    import torch

    from vader_core.cli import sample, train
    from vader_core.registry import load_registry
    from vader_core.testing.plugin import add_testing_plugin

    torch.set_num_threads(1)
    registry = add_testing_plugin(load_registry())
    loading: Callable[[], object] = lambda: registry  # noqa: E731
    train.load_registry = sample.load_registry = loading  # type: ignore[assignment]
    os.environ.setdefault("PYTHONHASHSEED", "0")


if __name__ == "__main__":
    sys.exit(main())
