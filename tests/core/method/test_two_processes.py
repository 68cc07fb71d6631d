"""Two processes that train together are one: nothing depends on who makes a group or a stored rollout."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMON = ["--backbone", "demo", "--reward", "demo_aesthetic", "--num-steps", "2", "--lora-rank", "2"]
COMMON += ["--quiet", "--device", "cpu", "-o", "validation.prompts=0", "-o", "run.trackers=[]"]
OBJECTIVES = {
    "nft": ["--objective", "nft", "-o", "objective.nft.group=2", "-o", "objective.nft.timesteps=1"],
    "store": [
        *("--gradient", "random:0-1", "-o", "objective.reward_gradient.store=rollouts"),
        *("-o", "objective.reward_gradient.store_size=1", "-o", "objective.reward_gradient.store_refresh=2"),
    ],
}


@pytest.mark.soak
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_equal_one(name, tmp_path):
    def losses(processes):
        out = tmp_path / f"{processes}"
        given = ["--num-processes", str(processes), "--batch-size", str(2 // processes), "--max-steps", "3"]
        command = [sys.executable, "-m", "vader_core", "train", *COMMON, *OBJECTIVES[name], *given]
        subprocess.run([*command, "--out", str(out)], check=True, timeout=300)
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        return [row["loss"] for row in rows if row["kind"] == "train"]

    one, two = losses(1), losses(2)
    assert len(one) == 3
    assert two == pytest.approx(one, rel=1e-4)
