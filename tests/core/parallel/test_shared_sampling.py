"""``vader sample`` and ``vader evaluate`` in two processes: the files and figures of one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from vader_core.cli import run
from vader_core.video import read_video

SIZE = ("--num-steps", "2", "--device", "cpu")
PROMPTS = ("a red star spinning", "a blue ball moving left", "a green square")


def by_two(*words: Any) -> str:
    """What two processes print."""
    command = [sys.executable, "-m", "vader_core", *map(str, words), "--num-processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def by_one(*words: Any, expect: int = 0) -> tuple[str, str]:
    """What the command prints, and what it complains of, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(word) for word in words])
    assert code == expect, err.getvalue()[-3000:]
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the demo that changes what it makes."""
    folder = tmp_path_factory.mktemp("run")
    by_one("train", "--backbone", "demo", "--reward", "demo_aesthetic", "--max-steps", 1, "--lr", 0.05,
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


@pytest.mark.slow
def test_two_processes_make_the_files_of_one(adapter: Path, prompts: Path, tmp_path: Path) -> None:
    words = (
        "sample",
        "--lora",
        adapter,
        "--prompts",
        f"file:{prompts}",
        "--reward",
        "demo_aesthetic",
        "--base",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    by_one(*words, *SIZE, "--out", one)
    by_two(*words, *SIZE, "--out", two)
    assert len(list(one.glob("*.mp4"))) == 2 * len(PROMPTS)
    same(one, two)
    sorted(two.glob("01-*.mp4"))[0].unlink()
    by_two(*words, *SIZE, "--out", two)
    same(one, two)


SHARD = ("-o", "parallel.shard=2", "-o", "parallel.keep_gathered=true")


EVALUATION = ("--pairs", 5, "--batch-size", 1, *SIZE, "--json")


@pytest.fixture(scope="module")
def figures(adapter: Path) -> dict[str, Any]:
    """Those of one process."""
    return dict(json.loads(by_one("evaluate", adapter, *EVALUATION)[0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel", [pytest.param((), marks=pytest.mark.soak), SHARD], ids=["whole", "pieces"]
)
def test_two_processes_find_the_figures_of_one(
    adapter: Path, figures: dict[str, Any], parallel: tuple[str, ...]
) -> None:
    two = json.loads(by_two("evaluate", adapter, *EVALUATION, *parallel))  # the first process alone speaks
    assert two["pairs"] == figures["pairs"] == 5
    (rewards,), (others,) = figures["evaluation"].values(), two["evaluation"].values()
    for name, found in rewards.items():
        assert found["tuned"] != found["base"]
        assert others[name]["ci95"] == pytest.approx(found["ci95"], abs=1e-6)
        for figure in ("base", "tuned", "difference", "win_rate"):
            assert others[name][figure] == pytest.approx(found[figure], abs=1e-6)


def test_what_processes_cannot_share_is_refused(adapter: Path) -> None:
    divided = ("evaluate", adapter, "--num-processes", 2, "-o", "parallel.shard=3", *SIZE)
    assert "parallel.shard=3 does not divide the 2 processes" in by_one(*divided, expect=2)[1]
    alone = ("sample", "--lora", adapter, "--max-prompts", 1, "-o", "parallel.shard=2", *SIZE)
    assert "parallel.shard=2 does not divide the 1 processes" in by_one(*alone, expect=2)[1]
    suite = ("evaluate", adapter, "--suite", "vbench", "--num-processes", 2)
    assert "one process" in by_one(*suite, expect=2)[1]
