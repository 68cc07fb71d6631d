"""``vader sample`` and ``vader evaluate`` in two processes: the files and figures of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vader_core.video import read_video

SIZE = ("--num-steps", "2", "--device", "cpu")
PROMPTS = ("a red star spinning", "a blue ball moving left", "a green square")


def vader(*words: Any, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vader_core", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the demo that changes what it makes."""
    folder = tmp_path_factory.mktemp("run")
    vader("train", "--backbone", "demo", "--reward", "demo_aesthetic", "--max-steps", 1, "--lr", 0.05,
          "-o", "validation.prompts=0", "-o", "run.trackers=[]", *SIZE, "--out", folder / "run")  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    place.write_text("\n".join(PROMPTS))
    return place


def same(one: Path, other: Path) -> None:
    """The same clips with the same scores; the encoder itself rounds anew in every run."""
    assert sorted(path.name for path in other.iterdir()) == sorted(path.name for path in one.iterdir())
    assert (other / "prompts.json").read_bytes() == (one / "prompts.json").read_bytes()
    for path in one.glob("*.mp4"):
        torch.testing.assert_close(read_video(other / path.name), read_video(path), rtol=0, atol=0.15)


def test_two_processes_make_the_files_of_one(adapter: Path, prompts: Path, tmp_path: Path) -> None:
    def clips(name: str, *more: Any) -> Path:
        given = ("--prompts", f"file:{prompts}", "--reward", "demo_aesthetic", "--base")
        vader("sample", "--lora", adapter, *given, *SIZE, "--out", tmp_path / name, *more)
        return tmp_path / name

    one, two = clips("one"), clips("two", "--num-processes", 2)
    assert len(list(one.glob("*.mp4"))) == 2 * len(PROMPTS)
    same(one, two)
    gone = sorted(two.glob("01-*.mp4"))[0]
    gone.unlink()
    again = clips("two", "--num-processes", 2)
    same(one, again)


SHARD = ("-o", "parallel.shard=2", "-o", "parallel.keep_gathered=true")


@pytest.mark.parametrize("parallel", [(), SHARD], ids=["whole", "pieces"])
def test_two_processes_find_the_figures_of_one(
    adapter: Path, tmp_path: Path, parallel: tuple[str, ...]
) -> None:
    def figures(*more: Any) -> dict[str, Any]:
        done = vader("evaluate", adapter, "--pairs", 5, "--batch-size", 1, *SIZE, "--json", *more)
        return dict(json.loads(done.stdout))  # one object: the first process alone speaks

    one, two = figures(), figures("--num-processes", 2, *parallel)
    assert two["pairs"] == one["pairs"] == 5
    (rewards,), (others,) = one["evaluation"].values(), two["evaluation"].values()
    for name, found in rewards.items():
        assert found["tuned"] != found["base"]
        assert others[name]["ci95"] == pytest.approx(found["ci95"], abs=1e-6)
        for figure in ("base", "tuned", "difference", "win_rate"):
            assert others[name][figure] == pytest.approx(found[figure], abs=1e-6)


def test_what_processes_cannot_share_is_refused(adapter: Path) -> None:
    wrong = vader("evaluate", adapter, "--num-processes", 2, "-o", "parallel.shard=3", *SIZE, expect=2)
    assert "parallel.shard=3 does not divide the 2 processes" in wrong.stderr
    alone = vader("sample", "--lora", adapter, "--max-prompts", 1, "-o", "parallel.shard=2", *SIZE, expect=2)
    assert "parallel.shard=2 does not divide the 1 processes" in alone.stderr
    suite = vader("evaluate", adapter, "--suite", "vbench", "--num-processes", 2, expect=2)
    assert "one process" in suite.stderr
