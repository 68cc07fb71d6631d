"""Runs of several processes that go wrong in every way, for :mod:`test_processes`.

    python misbehaving.py FOLDER RESULT.json NAME…
    python misbehaving.py FOLDER RESULT.json kills:20

Imports once and forks: each command is a fork of this process, and so are the processes that its launcher
starts, which therefore know the testing plugin.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from vader_core.cli import launcher, run
from vader_core.cli import train as train_module
from vader_core.cli.launched import end_with_the_launcher
from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin
from vader_core.training.processes import join_processes
from vader_core.training.trainer import Trainer

STEPS = 6
RUN = (
    "train --backbone tiny --reward brightness --monitor motion --prompts fixed --lr 0.01 "
    "--quiet --lora-rank 2 --num-steps 2 -o validation.prompts=2 -o validation.seeds=1 "
    "-o run.checkpoint_every=1 -o run.keep=0 -o run.trackers=[] -o trainer.ema=0.9 --device cpu"
).split()
PAIR = [*RUN, "--num-processes", "2"]
TWO = [*PAIR, "--max-steps", str(STEPS)]
#: What single processes do wrong: rank, step, what.
WRONG: list[tuple[int, int, str]] = []
#: Words that process 1 alone is given.
OTHER_WORDS: list[str] = []
#: Seconds that every step takes at least.
SLOW = [0.0]


class Forked:
    """A launched process as a fork of the launcher's, in place of ``subprocess.Popen``."""

    def __init__(self, command: Sequence[str], env: dict[str, str], start_new_session: bool) -> None:
        assert start_new_session
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        os.setsid()
        os.closerange(3, 256)  # as a new program would find it: the launcher's store is the launcher's alone
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        os.environ.clear()
        os.environ.update(env)
        words = json.loads(command[-1])
        end_with_the_launcher()
        _leave(lambda: run(words + (OTHER_WORDS if env["RANK"] == "1" else [])))

    def poll(self) -> int | None:
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _leave(work: Callable[[], int]) -> None:
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def misbehave() -> None:
    """Let single processes do what :data:`WRONG` says."""
    train_step = Trainer.train_step

    def wrong(self: Any) -> None:
        for rank, step, what in WRONG:
            if os.environ.get("RANK") != str(rank) or self.step != step:
                continue
            if what == "hang":
                time.sleep(600)
            if what == "raise":
                raise RuntimeError("a fault of the test's own")
            os.kill(os.getpid(), getattr(signal, what))
        time.sleep(SLOW[0])
        train_step(self)

    Trainer.train_step = wrong  # type: ignore[method-assign]


class Command:
    """A command that runs in a fork, its words and its output in a file."""

    def __init__(self, words: Sequence[str], folder: Path, **environment: str) -> None:
        self.log = folder / f"{time.monotonic_ns()}.log"
        self.begun = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            with self.log.open("w") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
                os.environ.update(environment)
                _leave(lambda: run(list(words)))

    def result(self) -> dict[str, Any]:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        said = self.log.read_text()
        return {"code": code, "seconds": time.monotonic() - self.begun, "said": said}


def adapter(folder: Path, step: int = STEPS) -> str:
    """The bytes of a run's last adapter, as text."""
    return (folder / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors").read_bytes().hex()


def steps(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count('"kind": "train"') if metrics.is_file() else 0


def until(happened: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)


def alive(folder: Path) -> bool:
    """Whether a process still holds the run."""
    import fcntl

    with (folder / ".lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


class Scenes:
    """Each method is a scene: it returns what happened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *words: str, **environment: str) -> Command:
        return Command(words, self.folder, **environment)

    def whole(self) -> dict[str, Any]:
        out = self.folder / "whole"
        found = self.start(*TWO, "--out", str(out)).result()
        said = json.loads((out / "environment.json").read_text())
        summary = json.loads((out / "summary.json").read_text())
        return found | {"adapter": adapter(out), "processes": said["processes"], "summary": summary}

    def _wrong(self, rank: int, what: str, *words: str) -> dict[str, Any]:
        out = self.folder / f"{what}-{rank}"
        WRONG[:] = [(rank, 3, what)]
        found = self.start(*TWO, "--out", str(out), *words).result()
        WRONG.clear()
        return found | {"alive": alive(out), "steps": steps(out)}

    def killed_1(self) -> dict[str, Any]:
        found = self._wrong(1, "SIGKILL")
        out = self.folder / "SIGKILL-1"
        resumed = self.start("train", "--resume", str(out), "--quiet").result()
        return found | {"resumed": resumed, "adapter": adapter(out)}

    def killed_0(self) -> dict[str, Any]:
        found = self._wrong(0, "SIGKILL")
        out = self.folder / "SIGKILL-0"
        resumed = self.start(*TWO, "--out", str(out), "--resume", "auto").result()
        return found | {"resumed": resumed, "adapter": adapter(out)}

    def hangs(self) -> dict[str, Any]:
        return self._wrong(1, "hang", "-o", "parallel.timeout=0.05")

    def raises(self) -> dict[str, Any]:
        return self._wrong(1, "raise")

    def _asked(self, number: int) -> dict[str, Any]:
        out = self.folder / f"asked-{number}"
        SLOW[0] = 0.4
        command = self.start(*TWO, "--out", str(out))
        until(lambda: steps(out) >= 2)
        time.sleep(0.2)  # within a step
        before = steps(out)
        os.kill(command.pid, number)
        found = command.result()
        SLOW[0] = 0.0
        kept = len(list((out / "checkpoints").glob("step-*")))
        after = {"before": before, "after": steps(out), "kept": kept, "alive": alive(out)}
        resumed = self.start("train", "--resume", str(out), "--quiet").result()
        return found | after | {"resumed": resumed, "adapter": adapter(out)}

    def terminated(self) -> dict[str, Any]:
        return self._asked(signal.SIGTERM)

    def interrupted(self) -> dict[str, Any]:
        return self._asked(signal.SIGINT)

    def launcher_killed(self) -> dict[str, Any]:
        out = self.folder / "launcher"
        SLOW[0] = 0.3
        command = self.start(*TWO, "--out", str(out))
        until(lambda: steps(out) >= 1)
        children = _children_of(command.pid, 0.0)
        os.kill(command.pid, signal.SIGKILL)
        found = command.result()
        SLOW[0] = 0.0
        until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 40)
        left = [child for child in children if Path(f"/proc/{child}").exists()]
        return found | {"alive": alive(out), "children": len(children), "left": left}

    def mistake(self) -> dict[str, Any]:
        return self.start(*TWO, "--out", str(self.folder / "mistake"), "--reward-frames", "77").result()

    def out_exists(self) -> dict[str, Any]:
        return self.start(*TWO, "--out", str(self.folder / "whole")).result()

    def different(self) -> dict[str, Any]:
        OTHER_WORDS[:] = ["--seed", "7"]
        found = self.start(*TWO, "--out", str(self.folder / "different")).result()
        OTHER_WORDS.clear()
        return found | {"exists": (self.folder / "different").exists()}

    def half_told(self) -> dict[str, Any]:
        words = (*RUN, "--max-steps", "2", "--out", str(self.folder / "told"))
        return self.start(*words, WORLD_SIZE="2").result()

    def other_number(self) -> dict[str, Any]:
        out = str(self.folder / "whole")
        return self.start("train", "--resume", out, "--num-processes", "1", "--quiet").result()

    def global_batch(self) -> dict[str, Any]:
        fixed = ["-o", "trainer.global_batch=2", "--reward-frames", "all"]
        one, two = (self.folder / name for name in ("alone", "together"))
        alone = self.start(*RUN, *fixed, "--out", str(one), "--max-steps", "3").result()
        first = self.start(*PAIR, *fixed, "--out", str(two), "--max-steps", "2").result()
        then = ["train", "--resume", str(two), "--num-processes", "1", "--allow-changes", "--max-steps", "3"]
        second = self.start(*then, "--quiet").result()
        return {"codes": [alone["code"], first["code"], second["code"]], "said": second["said"]} | {
            "adapters": [adapter(one, 3), adapter(two, 3)]
        }

    def begun_again(self) -> dict[str, Any]:
        """``--resume auto`` where nothing is, where a run had hardly begun, and where one is over."""
        out = self.folder / "auto"
        words = (*RUN, "--out", str(out), "--resume", "auto", "--max-steps", "2")
        out.mkdir()
        (out / ".lock").touch()
        (out / ".config.yaml.17.part").touch()
        return {"codes": [self.start(*words).result()["code"] for _ in range(2)], "steps": steps(out)}

    def second_attempt(self) -> list[int]:
        """Two that torch's launcher starts again, the second of them before the first."""
        server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        told = {"TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port)}

        def meet(rank: int, attempt: int) -> int:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_RESTART_COUNT": str(attempt)}
            os.environ.update(told | own)
            if attempt == 1 and rank == 0:
                time.sleep(0.5)
            return join_processes(torch.device("cpu"), timeout=20.0).largest(rank) - 1

        codes = []
        for attempt in (0, 1):
            children = []
            for rank in (0, 1):
                children.append(os.fork())
                if not children[-1]:
                    _leave(partial(meet, rank, attempt))
            codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        return codes

    def kills(self, count: int) -> dict[str, Any]:
        """Kill a random process of two at random moments; go on by ``--resume auto`` each time."""
        generator, out = random.Random(0), self.folder / "kills"
        words = (*PAIR, "--out", str(out), "--resume", "auto", "--max-steps", "20")
        SLOW[0] = 0.02
        whole = self.folder / "unkilled"
        assert self.start(*PAIR, "--out", str(whole), "--max-steps", "20").result()["code"] == 0
        slowest, kills, runs, same = 0.0, 0, 0, 0
        while kills < count:
            command = self.start(*words)
            children = _children_of(command.pid, generator.uniform(0.0, 2.0))
            if children:
                begun = time.monotonic()
                os.kill(generator.choice(children), signal.SIGKILL)
                kills += 1
                found = command.result()
                slowest = max(slowest, time.monotonic() - begun)
                assert found["code"] in (0, 1), found
            else:
                assert command.result()["code"] == 0
            if (out / "summary.json").is_file():
                same += adapter(out, 20) == adapter(whole, 20)
                runs += 1
                import shutil

                shutil.rmtree(out)
        until_done = self.start(*words).result()
        same += until_done["code"] == 0 and adapter(out, 20) == adapter(whole, 20)
        SLOW[0] = 0.0
        return {"kills": kills, "runs": runs + 1, "same": same, "slowest": slowest}


def _children_of(pid: int, wait: float) -> list[int]:
    """The processes that a launcher started, ``wait`` seconds after it did; none if it is over by then."""
    place = Path(f"/proc/{pid}/task/{pid}/children")

    def children() -> list[int]:
        try:
            return [int(word) for word in place.read_text().split()]
        except OSError:
            return []

    until(lambda: len(children()) == 2, 30)
    time.sleep(wait)
    return children()


def _import_what_a_run_imports(folder: Path) -> None:
    """A run in this process: else each fork would import 1,000 modules, ten times its own work."""
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        assert run([*RUN, "--max-steps", "1", "--out", str(folder)]) == 0
    import torch.distributed.fsdp  # noqa: F401


def main() -> None:
    folder, result, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    registry = add_testing_plugin(load_registry())
    train_module.load_registry = lambda: registry  # type: ignore[attr-defined]
    _import_what_a_run_imports(folder / "imports")
    launcher.Popen = Forked  # type: ignore[misc,assignment]
    launcher.GRACE = 3.0
    misbehave()
    scenes = Scenes(folder)
    found = {}
    for name in names:
        scene, _, count = name.partition(":")
        begun = time.monotonic()
        found[scene] = getattr(scenes, scene)(*([int(count)] if count else []))
        print(f"{scene}: {time.monotonic() - begun:.1f} s", flush=True)
    result.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
