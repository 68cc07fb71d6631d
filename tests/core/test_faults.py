"""Faults at every operation and odd inputs of every kind: a few here, all of them in the soak."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"
needs_cc = pytest.mark.skipif(
    shutil.which("cc") is None or not sys.platform.startswith("linux"), reason="the shim is C, for Linux"
)
COMMANDS = ("train", "watched", "overwrite")
FAULT_KINDS = ("kill", "power", "eio", "full")
#: What is tried, how often in the soak, and how often here.
FUZZ = {
    "weights": (6000, 100),
    "runs": (1000, 10),
    "inputs": (1000, 60),
    "commands": (1500, 40),
    "values": (0, 150),
}


def script(name: str, folder: Path, **options: object) -> str:
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(
        [sys.executable, str(FAULTS / name), "--folder", str(folder), *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    print(done.stdout.splitlines()[-1])
    return done.stdout


@needs_cc
@pytest.mark.parametrize("how", FAULT_KINDS)
def test_a_run_meets_faults_at_some_operations(tmp_path, how):
    assert ", 0 wrong" in script("matrix.py", tmp_path, what="train", how=how, moments=4)


@needs_cc
@pytest.mark.parametrize("what", COMMANDS[1:])
def test_other_commands_meet_faults_at_some_operations(tmp_path, what):
    assert ", 0 wrong" in script("matrix.py", tmp_path, what=what, how="kill", moments=3)


@pytest.mark.parametrize("what", FUZZ)
def test_some_odd_inputs_end_in_one_message(tmp_path, what):
    assert ", 0 wrong" in script("fuzz.py", tmp_path, what=what, count=FUZZ[what][1])


@needs_cc
@pytest.mark.soak
@pytest.mark.parametrize("how", FAULT_KINDS)
@pytest.mark.parametrize("what", COMMANDS)
def test_faults_at_every_operation(tmp_path, what, how):
    assert ", 0 wrong" in script("matrix.py", tmp_path, what=what, how=how)


@pytest.mark.soak
@pytest.mark.parametrize("what", FUZZ)
def test_odd_inputs_by_the_thousand(tmp_path, what):
    count = {"count": FUZZ[what][0]} if FUZZ[what][0] else {}
    assert ", 0 wrong" in script("fuzz.py", tmp_path, what=what, **count)
