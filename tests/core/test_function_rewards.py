"""`--reward FILE.py:FUNCTION`: what it takes, what it refuses, and that no folder runs code."""

import json

import pytest
import yaml

from vader_core.function_files import PLUGIN, FunctionFile
from vader_core.registry import load_registry

MINE = """
import numpy as np
from my_neighbour import FACTOR


def redness(frames):
    return FACTOR * frames[:, 0].mean(dim=(1, 2))


def stillness(video, prompts):
    return -(video[:, 1:] - video[:, :-1]).abs().mean(dim=(1, 2, 3, 4)) + 0 * len(prompts[0])


def boxed(frames: np.ndarray):
    assert frames.dtype == np.uint8
    assert frames.shape[-1] == 3
    return frames.mean(axis=(1, 2, 3)) / 255


def detached(frames):
    return frames.detach().mean(dim=(1, 2, 3))


def in_numpy(frames):
    grey = frames.mean(dim=1)
    return grey.numpy().mean(axis=(1, 2))


def raising(frames):
    raise ValueError("studio server down")


def flat(frames):
    return frames.mean()


def counting(frames):
    return 3


def strange(pictures):
    return pictures
"""
LINES = {name: number for number, line in enumerate(MINE.splitlines(), 1) for name in [line.strip()]}
TRAIN = "train --backbone tiny --prompts fixed --num-steps 2 --lora-rank 2 --quiet --max-steps 1".split()
TRAIN += ["-o", "run.trackers=[]", "-o", "validation.prompts=1", "-o", "validation.seeds=1"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    file = tmp_path_factory.mktemp("functions") / "mine.py"
    file.write_text(MINE)
    file.with_name("my_neighbour.py").write_text("FACTOR = 2\n")
    return file


@pytest.fixture(autouse=True)
def forgotten(registry):
    yield
    rewards = registry.components["reward"]
    for name in [name for name, found in rewards.items() if found.plugin == PLUGIN]:
        del rewards[name]


def test_functions_are_trained_on_and_watched(vader, mine, tmp_path):
    run = tmp_path / "run"
    given = ["--reward", f"{mine}:redness:0.5", "--reward", f"{mine}:stillness", "--monitor", f"{mine}:boxed"]
    assert vader(*TRAIN, *given, "--out", run) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validation = records[0]
    assert set(validation["rewards"]) == {"redness", "stillness"}
    assert 0 < validation["monitors"]["boxed"] < 1
    step = next(record for record in records if record["kind"] == "train")
    assert step["grad_norm"] > 0
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["reward"][0]["function_file"] == str(mine)
    assert kept["reward"][0]["weight"] == 0.5


def test_a_run_folder_runs_no_code_until_the_command_line_repeats_it(
    vader, registry, mine, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    assert vader(*TRAIN, "--reward", f"{mine}:redness", "--out", run) == 0
    del registry.components["reward"]["redness"]
    monkeypatch.setattr(FunctionFile, "load", lambda self: pytest.fail("imported"))
    for command in (
        ["train", "--resume", run],
        ["evaluate", run],
        ["train", "--config", run / "config.yaml"],
    ):
        assert vader(*command) == 2
        assert f"if you trust that file, give --reward {mine}:redness" in capsys.readouterr().err
    monkeypatch.undo()
    again = ["--reward", f"{mine}:redness", "--max-steps", "2", "--allow-changes", "--quiet"]
    assert vader("train", "--resume", run, *again) == 0
    assert "2 steps" in capsys.readouterr().out


def test_a_changed_function_is_another_configuration(vader, tmp_path, capsys):
    file, run = tmp_path / "edited.py", tmp_path / "run"
    file.write_text("def own(frames):\n    return frames.mean(dim=(1, 2, 3))\n")
    assert vader(*TRAIN, "--reward", f"{file}:own", "--out", run) == 0
    file.write_text("def own(frames):\n    return 2 * frames.mean(dim=(1, 2, 3))\n")
    assert vader("train", "--resume", run, "--reward", f"{file}:own") == 2
    assert "reward[own].function_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "line", "said"),
    [
        ("detached", "def detached(frames):", "its loss has no gradient"),
        ("in_numpy", "return grey.numpy().mean(axis=(1, 2))", "NumPy has no gradient: write it in torch"),
        ("raising", 'raise ValueError("studio server down")', "ValueError: studio server down"),
        ("flat", "def flat(frames):", "one score per frame, [1]; it returned []"),
        ("counting", "def counting(frames):", "one score per frame, [1]; it returned []"),
        ("strange", "def strange(pictures):", "its first parameter must be called `frames`"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_before_anything_is_sampled(
    vader, mine, tmp_path, capsys, monkeypatch, function, line, said
):
    monkeypatch.setattr("vader_core.training.trainer.Trainer.fit", lambda self: pytest.fail("it trained"))
    assert vader(*TRAIN, "--reward", f"{mine}:{function}", "--out", tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert said in message
    assert f"mine.py, line {LINES[line]}" in message
    assert ".detach().numpy()" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("in_numpy", "NumPy has no gradient: write it in torch"),
        ("detached", "cuts the pixels off (NumPy, .detach(), .item(), torch.no_grad()): write it in torch"),
    ],
)
def test_the_check_says_what_to_do_about_a_lost_gradient(vader, mine, capsys, function, said):
    assert vader("check", "reward", f"{mine}:{function}") == 2
    told = capsys.readouterr()
    (line,) = (one for one in told.out.splitlines() if one.startswith("BROKEN  pixel_gradient"))
    assert said in line
    assert ".detach().numpy()" not in told.out + told.err
    assert told.err.count("checking") == 1  # in a pipe one line, not one per clause


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{mine}:rednes", "has no function 'rednes'; did you mean 'redness'? (functions in it: redness"),
        ("{mine}", "which function? Write"),
        ("{mine}:redness:much", "the weight 'much' is not a number"),
        ("nowhere/mine.py:redness", "there is no file nowhere/mine.py"),
        ("{mine}:boxed", "has no gradient"),
        ("{broken}:any", "broken.py, line 1: "),
        ("{raising}:any", "raising.py, line 1: ModuleNotFoundError: No module named 'absent'"),
        ("{clash}:brightness", "has that name: rename the function"),
    ],
)
def test_what_cannot_be_a_reward_is_refused(vader, mine, tmp_path, capsys, text, said):
    places = {name: tmp_path / f"{name}.py" for name in ("broken", "raising", "clash")}
    places["broken"].write_text("def any(:\n")
    places["raising"].write_text("import absent\ndef any(frames):\n    return frames\n")
    places["clash"].write_text("def brightness(frames):\n    return frames\n")
    reward = text.format(mine=mine, **places)
    assert vader(*TRAIN, "--reward", reward, "--out", tmp_path / "run") == 2
    assert said in capsys.readouterr().err


def test_a_function_is_checked_scored_with_and_packaged(vader, mine, tmp_path, capsys):
    assert vader("check", "reward", f"{mine}:redness") == 0
    assert "finite_differences" in capsys.readouterr().out
    assert vader(*TRAIN, "--reward", "brightness", "--out", tmp_path / "run") == 0
    clip = tmp_path / "run" / "samples" / "step-000001" / "00.mp4"
    capsys.readouterr()
    assert vader("score", clip, "--reward", f"{mine}:boxed", "--json") == 0
    assert 0 < json.loads(capsys.readouterr().out)["videos"][0]["scores"]["boxed"] < 1
    sampled = ["--backbone", "tiny", "--prompts", "fixed", "--max-prompts", 1, "--num-steps", 2]
    clips = tmp_path / "clips"
    assert vader("sample", *sampled, "--reward", f"{mine}:boxed", "--out", clips) == 0
    assert json.loads((clips / "prompts.json").read_text())[0]["scores"]["boxed"] > 0
    plugin = ["new-plugin", "house_red", "--kind", "reward", "--function", f"{mine}:redness"]
    assert vader(*plugin, "--out", tmp_path / "house") == 0
    assert (tmp_path / "house" / "vader_house_red" / "function.py").read_text() == MINE
    assert vader("new-plugin", "other", "--kind", "sampler", "--function", f"{mine}:redness") == 2


def test_what_is_handed_on_names_the_file_and_no_folder(vader, registry, mine, tmp_path, monkeypatch):
    run, prompts = tmp_path / "run", tmp_path / "shots.txt"
    prompts.write_text("a cat\na dog\n")
    given = ["--reward", f"{mine}:redness:0.5", "--prompts", f"file:{prompts}", "--out", run]
    monkeypatch.setattr("sys.argv", ["vader", *map(str, given), "-o", f"reward.redness.folder={tmp_path}"])
    assert vader(*TRAIN, *given) == 0
    assert vader("push", run, "me/red", "--dry-run") == 0
    shared = [
        path.read_text() for path in (run / "hub").iterdir() if path.suffix in (".md", ".yaml", ".json")
    ]
    for text in (*shared, (run / "report.html").read_text()):
        assert str(mine.parent) not in text
        assert str(tmp_path) not in text
    kept = yaml.safe_load((run / "config.yaml").read_text())
    sent = yaml.safe_load((run / "hub" / "config.yaml").read_text())
    assert kept["reward"][0]["function_file"] == str(mine)
    assert sent["reward"][0] == kept["reward"][0] | {"function_file": "mine.py"}
    assert sent["prompts"]["source"] == "file:shots.txt"
    card = (run / "hub" / "README.md").read_text()
    assert "`vader train --config config.yaml --reward mine.py:redness` runs it again" in card
    assert "`mine.py`, is not in this repository" in card
    del registry.components["reward"]["redness"]
    again = ["train", "--config", run / "hub" / "config.yaml", "--prompts", "fixed", "--quiet"]
    assert vader(*again, "--out", tmp_path / "refused") == 2
    assert vader(*again, "--reward", f"{mine}:redness", "--out", tmp_path / "again") == 0
    found = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert found["reward"] == kept["reward"]  # its weight too


def test_parsing_imports_nothing(tmp_path):
    file = tmp_path / "bomb.py"
    file.write_text("raise SystemExit\ndef own(frames): ...\n")
    entry = FunctionFile.parse(f"{file}:own").add_to(load_registry())
    assert entry["name"] == "own"
    assert FunctionFile.parse("hps:0.5") is None
