"""Several processes that do what was asked, or end with one message and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
#: Scenes that are played together; some need the run of `whole`.
QUICK = "whole killed_0 mistake out_exists different half_told other_number"
FURTHER = (
    "whole killed_1 hangs raises terminated interrupted launcher_killed global_batch begun_again "
    "second_attempt kills:2"
)


def scenes(folder: Path, names: str) -> dict[str, Any]:
    """What happened in the scenes of ``misbehaving.py``."""
    result = folder / "result.json"
    command = [sys.executable, str(HERE / "misbehaving.py"), str(folder), str(result), *names.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


class Seen(dict[str, Any]):
    """What happened by scene; played when it is first asked for."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory

    def __missing__(self, name: str) -> Any:
        names = QUICK if name in QUICK.split() else FURTHER
        self.update(scenes(self._factory.mktemp("processes"), names))
        return self[name]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return Seen(tmp_path_factory)


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error:")]


def test_two_are_asked_for_two_run_and_two_are_recorded(seen):
    whole = seen["whole"]  # with --monitor, which a launcher could take for an option of its own
    assert whole["code"] == 0
    assert whole["processes"] == 2
    assert whole["summary"]["reward_queries"] == 12


@pytest.mark.slow_cases("1")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_with_one_message_that_names_it(seen, rank):
    killed = seen[f"killed_{rank}"]
    assert killed["code"] == 1
    assert not killed["alive"]
    (message,) = killed["said"].splitlines()
    assert message.startswith(f"error: process {rank} of 2 (pid ")
    assert "SIGKILL" in message
    assert "vader train --resume" in message
    assert killed["seconds"] < 60


@pytest.mark.quick_cases("killed_0")
@pytest.mark.parametrize("name", ["killed_0", "killed_1", "terminated", "interrupted"])
def test_the_documented_command_goes_on_with_as_many_processes(seen, name):
    assert seen[name]["resumed"]["code"] == 0
    assert seen[name]["adapter"] == seen["whole"]["adapter"]


@pytest.mark.slow
def test_a_process_that_hangs_is_named_after_the_timeout(seen):
    assert seen["hangs"]["code"] == 1
    (message,) = seen["hangs"]["said"].splitlines()
    assert "process 1 of 2 does not answer" in message
    assert not seen["hangs"]["alive"]


@pytest.mark.slow
def test_an_unforeseen_error_is_told_once(seen):
    assert seen["raises"]["code"] == 1
    assert seen["raises"]["said"].count("Traceback") == 1
    assert "a fault of the test's own" in seen["raises"]["said"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("terminated", 143), ("interrupted", 130)])
def test_a_signal_lets_the_step_end_everywhere(seen, name, code):
    found = seen[name]
    assert found["code"] == code
    assert not found["alive"]
    assert found["kept"] == found["after"] >= found["before"]
    assert errors(found["said"]) == []


@pytest.mark.slow
def test_processes_end_with_their_launcher(seen):
    assert seen["launcher_killed"]["code"] == -signal.SIGKILL
    assert seen["launcher_killed"]["children"] == 2
    assert seen["launcher_killed"]["left"] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mistake", "the clip has 4 frames"),
        ("out_exists", "exists: continue it"),
        ("different", "process 1 not as process 0: trainer.seed: 0 -> 7"),
        ("half_told", "MASTER_ADDR"),
        ("other_number", "the run had 2 processes, and now there are 1"),
    ],
)
def test_a_mistake_is_told_once(seen, name, words):
    assert seen[name]["code"] == 2
    (message,) = seen[name]["said"].splitlines()
    assert words in message


def test_processes_that_disagree_write_nothing(seen):
    assert not seen["different"]["exists"]


@pytest.mark.slow
def test_a_global_batch_is_the_same_on_any_number_of_processes(seen):
    found = seen["global_batch"]
    assert found["codes"] == [0, 0, 0], found["said"]
    one, two = found["adapters"]
    assert one == two


@pytest.mark.slow
def test_resume_auto_begins_and_goes_on(seen):
    assert seen["begun_again"] == {"codes": [0, 0], "steps": 2}


@pytest.mark.slow
def test_processes_that_are_started_again_find_each_other_whoever_is_first(seen):
    assert seen["second_attempt"] == [0, 0, 0, 0]


def check_kills(found: dict[str, Any]) -> None:
    print(f"{found['kills']} kills in {found['runs']} runs; the slowest end took {found['slowest']:.1f} s")
    assert found["same"] == found["runs"]
    assert found["slowest"] < 60


@pytest.mark.slow
def test_random_kills_lose_nothing(seen):
    check_kills(seen["kills"])


@pytest.mark.soak
def test_twenty_random_kills_lose_nothing(tmp_path):
    check_kills(scenes(tmp_path, "kills:20")["kills"])


# -- torch's launcher --------------------------------------------------------------------------------------

UNDER_TORCHRUN = f"""
import os, sys
sys.path.insert(0, {str(HERE)!r})
import misbehaving
from vader_core.cli import run, train
from vader_core.registry import load_registry
from vader_core.testing.plugin import add_testing_plugin
registry = add_testing_plugin(load_registry())
train.load_registry = lambda: registry
misbehaving.SLOW[0] = float(os.environ.get("SLOW", "0"))
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and "KILL" in os.environ:
    misbehaving.WRONG.append((1, 3, "SIGKILL"))
misbehaving.misbehave()
sys.exit(run(sys.argv[1:]))
"""


def torchrun(
    tmp_path: Path, *options: str, words: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    script = tmp_path / "under_torchrun.py"
    script.write_text(UNDER_TORCHRUN)
    command = [
        "train", "--backbone", "tiny", "--reward", "brightness", "--prompts", "fixed", "--max-steps", "12",
        "--num-steps", "2", "-o", "validation.prompts=0", "-o", "run.checkpoint_every=1",
        "-o", "run.trackers=[]", "--device", "cpu", "--quiet", "--out", str(tmp_path / "run"), *words,
    ]  # fmt: skip
    here = ("--local-addr", "127.0.0.1")  # not every machine knows its own name
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *here, *options, str(script), *command],
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.soak
def test_torchrun_restarts_and_the_run_goes_on_by_itself(tmp_path):
    started = torchrun(tmp_path, "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", KILL="1")
    said, _ = started.communicate(timeout=300)
    assert started.returncode == 0, said
    assert "continuing from" in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 12


def below(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(found for word in words for found in below(int(word)))]


def until(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.soak
def test_a_machine_that_is_lost_and_started_again_takes_part_again(tmp_path):
    """Two of torchrun's agents, as two machines have them."""
    whole = tmp_path / "whole"
    whole.mkdir()
    alone = torchrun(whole, "--standalone", "--nproc-per-node", "2")
    said, _ = alone.communicate(timeout=200)
    assert alone.returncode == 0, said
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-id", "soak"]
    options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]

    def agent() -> subprocess.Popen[str]:
        # Else the agents share a store of which torch tells no machine that comes later.
        environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "SLOW": "0.3"}
        return torchrun(tmp_path, *options, words=("--resume", "auto"), **environment)

    metrics = tmp_path / "run" / "metrics.jsonl"

    def steps() -> int:
        return metrics.read_text().count('"kind": "train"') if metrics.is_file() else 0

    first = agent()
    until(lambda: answers(port))  # the other is not the one that keeps the meeting place
    other = agent()
    until(lambda: steps() >= 3)
    lost = time.monotonic()
    for pid in below(other.pid):
        os.kill(pid, signal.SIGKILL)
    other.communicate()
    before = steps()
    assert before < 12
    again = agent()
    until(lambda: steps() > before)
    print(f"lost at step {before}, going on after {time.monotonic() - lost:.1f} s")
    (told, _), (said, _) = first.communicate(timeout=200), again.communicate(timeout=200)
    assert [first.returncode, again.returncode] == [0, 0], told + said
    assert "another of 2 processes ended" in told
    assert "continuing from" in told + said
    last = Path("checkpoints") / "step-000012" / "adapter_model.safetensors"
    assert (tmp_path / "run" / last).read_bytes() == (whole / "run" / last).read_bytes()
