"""The types hold: mypy over what `make types` looks at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("vader_core", "plugins/*/vader_*")


@pytest.mark.timeout(600)
def test_the_types_hold() -> None:
    files = sorted(str(path) for part in PARTS for path in ROOT.glob(part))
    command = [sys.executable, "-m", "mypy", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


def test_make_types_looks_at_the_same() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    (command,) = [line for line in lines if "/mypy " in line]
    for part in PARTS:
        assert part in command
