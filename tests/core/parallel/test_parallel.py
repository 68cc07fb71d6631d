"""Shared weights and shared sequences: the gradient of one process, over gloo on the CPU.

In float64, so that what is left is no rounding. The autoencoder of the tiny Wan stays in float32, and so does
all of the case with a network that scores, where data parallel itself is 3e-5 off.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
#: What two processes look at in the slow tests; one of it in every run of the tests; all cases, and four
#: processes, in the soak.
QUICK = (
    "last",
    "last:3",
    "random",
    "refl",
    "detach_input",
    "base_weight",
    "checkpointing",
    "bf16",
    "folded",
    "ltx",
)


def ranks(folder: Path, world: int, *names: str) -> dict[str, Any]:
    """What ``ranks.py`` found."""
    result = folder / "result.json"
    command = [sys.executable, "-W", "ignore", str(HERE / "ranks.py"), str(world), str(result), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.read_text())
    print(json.dumps(found, indent=1))
    return found


def check(found: dict[str, Any]) -> None:
    for name, apart in found.items():
        exact = {"bf16": 2e-2, "all frames": 2e-6, "rewards": 1e-4}.get(name, 1e-12)
        assert apart["shard"] == 0.0, name  # bit-equal to data parallel
        for how in apart.keys() & {"data", "context", "both"}:
            assert apart[how] <= exact, (name, how)
        if "context, not summed" in apart:  # each process has a part of the gradient alone
            assert apart["context, not summed"] > 0.05, name


def check_full(found: dict[str, Any]) -> None:
    assert found["kept"] < 2e-6
    assert found["resumed"] == 0.0
    assert found["evaluation"] < 1e-6
    assert found["validation"] < 1e-6


def check_unread(found: dict[str, Any]) -> None:
    """What each process reads its own rows of is what is read whole, to the bit; buffers and adapters too."""
    assert set(found) == {"float32", "experts in bfloat16"}
    for case in found.values():
        assert case["left unread"] == [False, True]
        assert case["alike"] == case["weights"] > 40
        assert case["gradient"] == 0.0


def check_figures(found: dict[str, Any]) -> None:
    """Scores of validation, evaluation and sampling are one process's to rounding, in float32."""
    for way, apart in found.items():
        assert apart.pop("clips") < 2e-4, way  # numbers from 0 to 1, written in 256 levels
        for name, value in apart.items():
            assert value < 1e-6, (way, name)


def test_two_processes_follow_the_last_gradient_of_one(tmp_path):
    check(ranks(tmp_path, 2, "last"))


@pytest.mark.slow
def test_two_processes_follow_the_gradient_of_one(tmp_path):
    found = ranks(tmp_path, 2, *QUICK, "full", "waits", "figures of both", "unread")
    check_unread(found.pop("unread"))
    check_figures(found.pop("figures of both"))
    waits = found.pop("waits")
    assert len(waits) > 1
    assert set(waits) == {30.0}  # every group's, whoever made it
    check_full(found.pop("full"))
    check(found)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("world", [2, 4])
def test_every_way_of_sharing_follows_the_gradient_of_one(tmp_path, world):
    found = ranks(tmp_path, world)
    check_figures(found.pop("figures"))
    check_full(found.pop("full"))
    check(found)


@pytest.mark.soak
def test_a_machine_holds_a_model_that_is_cut_once(tmp_path):
    """Read from its files, 300 MB: each process its own rows; else one after the other."""
    both = ranks(tmp_path, 2, "stored", "stored whole")
    for found in both.values():
        assert found["texts"] == 0.0  # by a text encoder in pieces
        assert found["kept by each"] < 0.51
    rows, wholes = both["stored"], both["stored whole"]
    assert rows["most in one process"] < 0.75
    assert rows["most on the machine"] < 1.3
    # with the pieces of those that are done there is never twice the model
    assert wholes["most in one process"] < 1.3
    assert wholes["most on the machine"] < 1.9
