"""What a newcomer meets: a sign of life in every command, plain figures, names that lead on."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vader_core.cli.progress import PhaseLine, ProgressListener
from vader_core.video import write_video

ROOT = Path(__file__).resolve().parents[3]
TRAIN = "train --backbone tiny --reward brightness --num-steps 2 --lora-rank 2 --max-steps 2".split()
TRAIN += ["--prompts", "fixed", "-o", "run.trackers=[]"]
FEW = ["-o", "validation.prompts=2", "-o", "validation.seeds=1", "-o", "validation.evaluation_pairs=2"]
KNOWN = "a red star spinning on a navy background"


@pytest.fixture
def told(monkeypatch):
    """What the line on the screen was given, in order, each once."""
    found: list[str] = []
    real = PhaseLine.__call__

    def listen(line, doing, done, total):
        words = f"{doing} {done}/{total}" if total else doing
        if words not in found:
            found.append(words)
        real(line, doing, done, total)

    monkeypatch.setattr(PhaseLine, "__call__", listen)
    return found


def test_each_part_of_a_training_is_said(vader, tmp_path, told, capsys):
    assert vader(*TRAIN, *FEW, "-o", "validation.batch=1", "--out", tmp_path / "run") == 0
    order = [
        *("loading the model", "loading the rewards", "trying the rewards"),
        *("validating 0/2", "validating 1/2", "evaluating 0/2", "evaluating 1/2", "writing the report"),
    ]
    assert [one for one in told if one in order] == order
    piped = capsys.readouterr().err.splitlines()
    assert {"validating 0/2", "evaluating 0/2"} <= {line.strip() for line in piped}
    steps = [line for line in piped if line.startswith("step ") and "s/step" in line]
    assert [line.split()[1] for line in steps] == ["1/2", "2/2"]
    assert all("left" in line and line.rstrip().endswith("GiB") for line in steps)  # whole in a pipe


def test_a_single_rewards_loss_is_not_said_twice(capsys):
    record = {
        "kind": "train",
        "step": 1,
        "grad_norm": 0.5,
        "seconds": 2.0,
        "memory_gib": 1.0,
        "skipped": False,
    }
    with ProgressListener(2) as line:
        line.record({**record, "rewards": {"brightness": 0.25}, "loss": -0.25})
        line.record({**record, "rewards": {"brightness": 0.25}, "loss": -0.5})
    first, second = capsys.readouterr().err.splitlines()
    assert first.rstrip() == "step 1/2  brightness 0.25  grad 0.5  2.00 s/step  0:02 left  1.0 GiB"
    assert "loss -0.5" in second


def test_every_other_command_shows_how_far_it_is(vader, tmp_path, told, capsys, monkeypatch):
    run = tmp_path / "run"
    assert (
        vader(*TRAIN, "-o", "validation.prompts=0", "-o", "validation.evaluation_pairs=0", "--out", run) == 0
    )
    told.clear()
    capsys.readouterr()
    assert vader("sample", "--lora", run, "--max-prompts", 2, "--out", tmp_path / "clips") == 0
    assert "loading the model" in told
    lines = [line for line in capsys.readouterr().err.splitlines() if "s per clip" in line]
    assert [line.split()[0] for line in lines] == ["1/2", "2/2"]
    told.clear()
    assert vader("evaluate", run, "--pairs", 2) == 0
    assert {"loading the model", "loading the rewards", "evaluating 0/2"} <= set(told)
    told.clear()
    assert vader("score", tmp_path / "clips", "--reward", "brightness") == 0
    assert {"loading the rewards", "scoring 0/2", "scoring 1/2"} <= set(told)
    told.clear()
    monkeypatch.setattr(importlib.import_module("vader_core.api.plan"), "memory_facts", lambda *a, **n: {})
    assert vader(*TRAIN, "--dry-run") == 0
    assert told == ["checking the configuration", "estimating the memory"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--recipe", "demmo"], "did you mean 'demo'"),
        (["train", "--backbone", "dmeo"], "did you mean 'demo'"),
        (["train", "--backbone", "demo", "--reward", "demo_asthetic"], "did you mean 'demo_aesthetic'"),
        (["sample", "--lora", "nowhere"], "there is no run, file or folder nowhere"),
    ],
)
def test_a_slip_of_the_fingers_costs_no_seconds(arguments, said):
    """It is refused before torch is imported, which takes longer than all the rest."""
    code = "import sys; from vader_core.cli import run; print(run(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert said in done.stderr
    assert done.stdout.split() == ["2", "False"]


def test_a_clip_that_is_too_short_is_named_with_the_reward_that_needs_more(tmp_path, capsys):
    from vader_core.cli import run

    write_video(torch.rand(2, 3, 64, 64), tmp_path / "short.mp4", 8.0)
    assert run(["score", str(tmp_path / "short.mp4"), "--reward", "demo_action", "--prompt", KNOWN]) == 2
    message = capsys.readouterr().err
    assert "short.mp4: reward 'demo_action' needs clips of 8 frames, but the video has 2" in message
    assert "give a longer one" in message


def test_a_lora_file_names_the_model_that_it_is_for(tmp_path):
    from vader_core.cli.options import lora_base
    from vader_core.registry import load_registry

    registry, names = (
        load_registry(),
        "base_model.model.model.diffusion_model.input_blocks.{}.1.q.lora_{}.weight",
    )
    tensors = {names.format(block, side): torch.zeros(2, 2) for block in range(1, 9) for side in "AB"}
    torch.save(tensors, tmp_path / "theirs.pt")
    for place in (f"{tmp_path}/theirs.pt", f"{tmp_path}/theirs.pt:0.5"):
        assert lora_base(place, {}, registry) == {"backbone": {"name": "videocrafter"}}
    assert lora_base(place, {"backbone": "wan"}, registry) == {}
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    assert lora_base(f"{tmp_path}/other.pt", {}, registry) == {}


def test_what_scores_is_not_told_how_to_train(capsys):
    from vader_core.cli import cli

    cli.main(["evaluate", "--help"], standalone_mode=False)
    told = capsys.readouterr().out
    for word in ("--objective", "--reward-frames", "Train on", "What it learns from", "Training:"):
        assert word not in told
    assert "\nScores:\n  --reward NAME" in told


def test_a_placeholder_is_a_word(capsys):
    """``N``, a number, is the one letter that says what it is."""
    from vader_core.cli import COMMANDS, cli

    for name in COMMANDS:
        cli.main([name, "--help"], standalone_mode=False)
        told = capsys.readouterr().out
        letters = re.findall(r"^  --[a-z-]+ ([A-Z])(?![A-Za-z])", told, flags=re.M)
        assert set(letters) <= {"N"}, name


def test_a_missing_file_of_a_mix_is_named_by_the_option_that_gives_it(tmp_path, capsys, monkeypatch):
    from vader_core.cli import run

    def offline(*_):
        raise ConnectionError("no route")

    monkeypatch.setattr("vader_core.hub.fetched", offline)
    write_video(torch.rand(2, 3, 64, 64), tmp_path / "clip.mp4", 8.0)
    asked = ["score", str(tmp_path / "clip.mp4"), "--reward", "aesthetic_hps", "--prompt", "a cat"]
    assert run(asked) == 2
    option = re.search(r"give -o (\S+)=PATH", capsys.readouterr().err)[1]
    assert run([*asked, "-o", f"{option}={tmp_path / 'nowhere'}"]) == 2
    message = capsys.readouterr().err
    assert "no such file or folder" in message
    assert "no option" not in message


def linked(page: Path) -> set[Path]:
    """The pages that a page links to."""
    found = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
    return {(page.parent / place).resolve() for place in found if "://" not in place}


def test_every_page_is_two_links_from_the_readme():
    readme = ROOT / "README.md"
    near = linked(readme)
    near |= {found for page in near if page.is_file() for found in linked(page)}
    pages = {page for page in (ROOT / "docs").rglob("*.md") if "decisions" not in page.parts}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - near) == []


def test_the_readme_says_how_names_are_completed():
    assert "_VADER_COMPLETE=bash_source vader" in (ROOT / "README.md").read_text(encoding="utf-8")
