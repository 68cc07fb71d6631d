"""Two processes that learn from clips in buckets are killed and end as if they had not been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_two_processes.py")


@pytest.mark.soak
@pytest.mark.parametrize(("kills", "steps"), [(2, 12), (10, 100)], ids=["short", "long"])
def test_killed_and_resumed_to_the_same_bytes(tmp_path, kills, steps):
    command = [sys.executable, str(SCRIPT), "--kills", str(kills), "--steps", str(steps)]
    done = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills, {steps} steps on 2 processes: the same losses, the same bytes" in done.stdout
