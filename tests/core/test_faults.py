"""Faults at every operation and odd inputs of every kind: a few here, more that are slow, all in the soak."""

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
COMMANDS = ("train", "watched", "overwrite", "sample")
FUZZ = ("weights:6000", "runs:1000", "inputs:1000", "commands:1500", "values")


def script(name: str, folder: Path, **options: object) -> str:
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(
        [sys.executable, str(FAULTS / name), "--folder", str(folder), *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    print(done.stdout)
    return done.stdout


@needs_cc
def test_a_run_meets_faults_at_some_operations(tmp_path):
    found = script("matrix.py", tmp_path, what="train", moments=1)
    assert found.count(" of ") == found.count(", 0 wrong") == 4


def test_a_few_odd_inputs_end_in_one_message(tmp_path):
    found = script("fuzz.py", tmp_path, what="weights:10,inputs:6,values:6,commands:2,runs:1")
    assert found.count(", 0 wrong") == 5


@pytest.mark.slow
@needs_cc
def test_runs_meet_faults_at_some_operations(tmp_path):
    found = script("matrix.py", tmp_path, what="train,overwrite", moments=1)
    assert found.count(" of ") == found.count(", 0 wrong") == 8


@pytest.mark.slow
def test_some_odd_inputs_end_in_one_message(tmp_path):
    found = script("fuzz.py", tmp_path, what="weights:50,inputs:30,values:30,commands:10,runs:3")
    assert found.count(", 0 wrong") == 5


@needs_cc
@pytest.mark.soak
@pytest.mark.parametrize("what", COMMANDS)
def test_faults_at_every_operation(tmp_path, what):
    script("matrix.py", tmp_path, what=what)


@pytest.mark.soak
@pytest.mark.parametrize("what", FUZZ)
def test_odd_inputs_by_the_thousand(tmp_path, what):
    script("fuzz.py", tmp_path, what=what)
