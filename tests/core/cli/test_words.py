"""What the command line says to what people type: near words, things that do not exist, help, completion."""

import importlib
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from vader_core.cli import main

TRAIN = "train --backbone tiny --reward brightness --num-steps 2 --lora-rank 2 --quiet --max-steps 1".split()
FAST = ["-o", "validation.prompts=0", "-o", "run.trackers=[]"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finetune"], "to learn from your own clips: vader train --data"),
        (["dashboard"], "RUN/report.html"),
        (["generate"], "to make videos: vader sample"),
        (["download"], "vader weights NAME --download"),
        (["train", "--dataset", "x"], "clips to learn from are --data"),
        (["train", "--learning_rate", "1"], "the learning rate is --lr"),
        (["train", "--device", "mps"], "Apple's mps is not supported"),
        (
            ["evaluate", "runs/nowhere"],
            "no run, file or folder runs/nowhere; of the hub it would be hub:",
        ),
        (["evaluate", "nowhere:0.5"], "there is no run, file or folder nowhere"),
        (["train", "--backbone", "tiny", "--prompts", "shots.csv"], "a file is --prompts file:shots.csv"),
        (["train", "--backbone", "tiny", "--prompts", "a red star"], '--prompts "text:a red star"'),
        (["train", "--backbone", "tiny", "--prompts", "."], "images:."),
        (["train", "--backbone", "tiny", "--prompts", "videos:x"], "clips to learn from are --data videos:x"),
        (["train", "--backbone", "tiny", "--data", "."], "a folder of clips is --data videos:."),
        (["train", "--backbone", "tiny", "--data", "shots.csv"], "a table of clips is --data file:shots.csv"),
        (["train", "--backbone", "tiny", "--data", "a/b.mp4"], "with its folder: --data videos:a"),
        (["train", "--backbone", "tiny", "--prompts", "a/b.png"], "pictures are --prompts images:a"),
        (["tune"], "to learn from your own clips: vader train --data"),
        (["show", "rewards"], "which reward? Give its NAME; `vader plugins` lists them"),
        (["weights", "--recipe", "nowhere"], "unknown recipe 'nowhere'"),
        (
            ["bench", "--backbone", "tiny", "-o", "parallel.shard=2"],
            "vader train, sample and evaluate share a model",
        ),
        (["push", "nowhere", "me"], "'me' is no repository: write OWNER/NAME"),
        (["push", "nowhere", "me/it"], "is not a run directory"),
    ],
)
def test_what_is_said(vader, capsys, arguments, said):
    assert vader(*arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_our_own_warnings_are_a_line_and_others_are_pythons(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", lambda *_: print("as Python shows it"))
    monkeypatch.setattr(sys, "argv", ["vader", "--version"])
    with pytest.raises(SystemExit):
        main()
    capsys.readouterr()
    warnings.showwarning("texts are cut", UserWarning, "/x/vader_core/nn/t5.py", 3)
    warnings.showwarning("anything", UserWarning, "/x/torch/nn.py", 3)
    warnings.showwarning("soon gone", DeprecationWarning, "/x/vader_core/nn/t5.py", 3)
    said = capsys.readouterr()
    assert (said.err, said.out) == ("warning: texts are cut\n", "as Python shows it\n" * 2)


def test_help_is_in_groups_with_defaults_and_examples(capsys):
    from vader_core.cli import COMMANDS, cli

    assert cli.main(["train", "--help"], standalone_mode=False) == 0
    told = capsys.readouterr().out
    for group in ("Model:", "Sampling:", "What it learns from:", "Training:", "Machine:", "Examples:"):
        assert f"\n{group}\n" in told
    assert "Learning rate.  [default: 0.0002]" in told
    assert "\\b" not in told
    assert "  vader train --resume runs/demo --max-steps 24\n" in told
    for name in COMMANDS:
        assert cli.main([name, "--help"], standalone_mode=False) == 0


def every_command():
    """All commands with the words that name them, those within groups too."""
    import click

    from vader_core.cli import cli

    root = click.Context(cli, info_name="vader")
    waiting = [([name], cli.get_command(root, name)) for name in cli.list_commands(root)]
    while waiting:
        words, command = waiting.pop()
        yield words, command
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=words[-1], parent=root)
            names = command.list_commands(context)
            waiting += [([*words, name], command.get_command(context, name)) for name in names]


def test_no_help_prints_marks_or_says_a_default_twice(capsys):
    from vader_core.cli import cli

    seen = set()
    for words, _ in every_command():
        assert cli.main([*words, "--help"], standalone_mode=False) == 0
        told = capsys.readouterr().out
        seen.add(" ".join(words))
        assert "\\b" not in told, words
        for row in re.split(r"\n(?=  -)", told):
            said = " ".join(row.split())
            assert not ("y default" in said and "[default:" in said), f"{words}: {said}"
    assert {"data scan", "data encode", "data run", "export", "lora convert", "score", "train"} <= seen


def test_show_leads_from_a_recipe_to_its_settings(vader, capsys):
    for word in ("recipe", "recipes"):
        assert vader("show", word, "demo") == 2
        assert "`vader config --recipe NAME` prints all it sets" in capsys.readouterr().err


def completed(words: str) -> list[str]:
    """What bash would be given for the words of a command line."""
    found = subprocess.run(
        [str(Path(sys.executable).with_name("vader"))],
        env={
            **os.environ,
            "_VADER_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.split()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("vader train --recipe demo_a", "plain,demo_action"),
        ("vader train --reward demo_al", "plain,demo_alignment"),
        ("vader train --backbone dem", "plain,demo"),
        ("vader show backbone dem", "plain,demo"),
        ("vader show sampler dd", "plain,ddim"),
        ("vader ev", "plain,evaluate"),
    ],
)
def test_names_are_completed(words, wanted):
    assert wanted in completed(words)


def test_more_steps_alone_may_grow_and_a_finished_run_says_so(vader, tmp_path, capsys):
    run = tmp_path / "run"
    assert vader(*TRAIN, *FAST, "--prompts", "fixed", "--out", run) == 0
    capsys.readouterr()
    assert vader("train", "--resume", run, "--quiet") == 0
    told = capsys.readouterr()
    assert "is finished: nothing is left to do. For more steps give --max-steps N" in told.err
    assert "1 step, 1 reward query" in told.out
    assert vader("train", "--resume", run, "--max-steps", "2", "--quiet") == 0
    assert "2 steps" in capsys.readouterr().out
    assert vader("train", "--resume", run, "--max-steps", "3", "--lr", "0.5", "--quiet") == 2
    assert "trainer.lr" in capsys.readouterr().err


def test_a_run_that_never_began_is_replaced_and_another_is_not(vader, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as broken:
        module = importlib.import_module("vader_core.api.train")
        broken.setattr(module, "load_parts", lambda *given: (_ for _ in ()).throw(OSError(5, "no weights")))
        assert vader(*TRAIN, *FAST, "--prompts", "fixed", "--out", run) == 1
    assert "no weights" in capsys.readouterr().err
    assert (run / "config.yaml").is_file()
    assert vader(*TRAIN, *FAST, "--prompts", "fixed", "--out", run) == 0
    assert vader(*TRAIN, *FAST, "--prompts", "fixed", "--out", run) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_folder_of_clips_means_its_clips(vader, tmp_path, capsys):
    import torch

    from vader_core.video import write_video

    for number in range(2):
        write_video(torch.full((2, 3, 16, 16), 0.25 + 0.5 * number), tmp_path / f"{number:02d}.mp4", 8.0)
    (tmp_path / "contact_sheet.png").write_bytes(b"not looked at")
    assert vader("score", tmp_path, "--reward", "brightness", "--json") == 0
    found = json.loads(capsys.readouterr().out)["videos"]
    assert [Path(clip["video"]).name for clip in found] == ["00.mp4", "01.mp4"]
    assert found[0]["scores"]["brightness"] < found[1]["scores"]["brightness"]


def test_names_that_are_not_diffusers_are_refused(vader, tmp_path, capsys):
    run = tmp_path / "run"
    assert vader(*TRAIN, *FAST, "--prompts", "fixed", "--out", run) == 0
    assert vader("lora", "convert", run, tmp_path / "x.safetensors", "--to", "diffusers") == 2
    assert "no pipeline could load the file: use another --to (peft)" in capsys.readouterr().err
    assert vader("lora", "convert", run, tmp_path / "x.safetensors", "--to", "comfyui") == 2
    said = capsys.readouterr().err
    assert "there is no such format for the backbone 'tiny': use another --to (peft)" in said


def test_comfyui_means_the_format_of_the_runs_model(tmp_path):
    from vader_core.cli.lora import comfyui_of
    from vader_core.component import Announced
    from vader_core.errors import VaderError
    from vader_core.registry import Registry

    names = ("wan_comfyui", "hunyuan_video_comfyui", "peft")
    registry = Registry(lora_formats={name: Announced(name, "x:Y", "", "diffusers") for name in names})
    (tmp_path / "config.yaml").write_text("backbone: {name: wan_i2v}\n")
    assert comfyui_of(str(tmp_path), registry) == "wan_comfyui"
    with pytest.raises(
        VaderError, match=r"which model it is for: say it .hunyuan_video_comfyui, wan_comfyui"
    ):
        comfyui_of("hub:me/it", registry)


@pytest.mark.parametrize(("lines", "held_out"), [(4, 0), (5, 1), (12, 2)])
def test_some_of_five_prompts_are_held_out_and_all_are_sampled(registry, tmp_path, lines, held_out):
    file = tmp_path / "prompts.txt"
    texts = [f"thing {number}" for number in range(lines)]
    file.write_text("\n".join(texts) + "\n")
    made = registry.get("prompt source", "file").make({"path": str(file)}, device="cpu", dtype=None)
    assert made.held_out_count == held_out
    drawn = {prompt.text for prompt in made.draw(range(100))}
    assert drawn == set(texts[: lines - held_out])
    assert [prompt.text for prompt in made.all()] == (texts[lines - held_out :] if held_out else texts)
    assert [prompt.text for prompt in made.every()] == texts


def test_held_out_is_said_only_where_true(vader, tmp_path, capsys):
    for words, said in (("text:a cat", False), ("fixed", True)):
        run = tmp_path / words.replace(":", "-")
        few = ["-o", "validation.evaluation_pairs=2", "-o", "validation.prompts=0", "-o", "run.trackers=[]"]
        told = [word for word in TRAIN if word != "--quiet"]
        assert vader(*told, *few, "--prompts", words, "--out", run) == 0
        assert json.loads((run / "summary.json").read_text())["held_out"] is said
        assert ("held-out pairs" in (run / "report.html").read_text()) is said
        assert ("no prompt is held out" in capsys.readouterr().err) is not said


def test_a_plan_needs_no_accelerator_and_says_where_and_what(vader, capsys, monkeypatch):
    module = importlib.import_module("vader_core.api.plan")
    monkeypatch.setattr(module, "memory_facts", lambda *given, **named: {})  # tests/core/profiling holds it
    plan = [word for word in TRAIN if word != "--quiet"] + ["--prompts", "fixed", "--dry-run"]
    assert vader(*plan, "--precision", "fp16") == 0
    told = capsys.readouterr().out
    assert "device   cuda (none is here), fp16" in told
    assert "files    none from the hub" in told
    assert "writes   runs/tiny-brightness" in told
    assert vader(*plan, "-o", "performance.offload_activations=true") == 0
    assert "device   cuda (none is here)" in capsys.readouterr().out
    assert vader(*plan, "-o", "performance.offload_activations=true", "--device", "cpu") == 2
    assert "needs a CUDA device" in capsys.readouterr().err
    assert vader(*plan, "--json") == 0
    assert json.loads(capsys.readouterr().out)["out"] == "runs/tiny-brightness"
    assert vader("train", "--recipe", "videocrafter_pick_score", "--dry-run", "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {file["for"] for file in files} == {"backbone 'videocrafter'", "reward 'pick_score'"}
    assert not any("optional" in file["note"] for file in files)


def test_a_plan_is_told_before_its_memory_is_estimated(vader, capsys, monkeypatch):
    told = []

    def estimated(*given, **named):
        told.append(capsys.readouterr().out)
        return {}

    monkeypatch.setattr(importlib.import_module("vader_core.api.plan"), "memory_facts", estimated)
    plan = [word for word in TRAIN if word != "--quiet"] + ["--prompts", "fixed", "--dry-run"]
    assert vader(*plan) == 0
    lines = told[0].splitlines()
    assert [line.split()[0] for line in lines[:2] + lines[-3:]] == [
        *("model", "learns"),
        *("time", "files", "writes"),
    ]
    assert capsys.readouterr().out == "memory   estimated for a CUDA device alone\n"


def test_a_plan_reads_the_captions_and_says_how_long_a_clip_must_be(tmp_path, capsys, monkeypatch):
    import torch

    from vader_core.cli import run
    from vader_core.video import write_video

    module = importlib.import_module("vader_core.api.plan")
    monkeypatch.setattr(module, "memory_facts", lambda *given, **named: {})
    known = "a red star spinning on a navy background"
    captions = [known, "a red boat", known, "", None]
    for number, (frames, caption) in enumerate(zip((8, 8, 4, 8, 8), captions, strict=True)):
        write_video(torch.rand(frames, 3, 64, 64), tmp_path / f"{number}.mp4", 8.0)
        (tmp_path / f"{number}.txt").write_bytes(b"caf\xe9" if caption is None else caption.encode())
    planned = ["train", "--backbone", "demo", "--data", f"videos:{tmp_path}", "--dry-run"]
    assert run(planned) == 2
    assert (
        "row 2 of the data: backbone 'demo': the demo model does not know 'boat'" in capsys.readouterr().err
    )
    (tmp_path / "1.txt").write_text(known)
    assert run(planned) == 0
    told = capsys.readouterr().out
    assert "2 of 5 rows are learned from" in told
    assert "row 3 (2.mp4: it has 4 frames (0.50 s), and 8 (1.00 s) are needed)" in told
    assert "no caption: row 4 (3.mp4)" in told
    assert "its caption cannot be read: row 5 (4.mp4: 4.txt is not text in UTF-8)" in told
    for words in (["--prompts", "text:a boat"], ["--negative-prompt", "a boat"]):
        assert run(["train", "--backbone", "demo", "--reward", "demo_aesthetic", *words, "--dry-run"]) == 2
        assert "does not know 'boat'" in capsys.readouterr().err


def test_lines_in_a_pipe_are_not_broken(capsys, monkeypatch):
    from vader_core.cli.progress import PhaseLine, phase_words

    monkeypatch.setenv("COLUMNS", "40")
    with PhaseLine() as progress:
        progress("validating", 0, 8)
        progress("validating", 3, 8)
        progress("loading the model", 0, 0)
        progress.say("word " * 40)
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert lines == ["validating 0/8", ("word " * 40).rstrip()]
    assert phase_words("evaluating", 40, 128, 80.0) == "evaluating 40/128  2.0 s each  2:56 left"


def test_a_push_writes_a_card_and_sends_nothing(vader, tmp_path, capsys, monkeypatch):
    pushed = importlib.import_module("vader_core.api.push")
    monkeypatch.setattr(pushed, "_send", lambda *given, **named: pytest.fail("sent"))
    run = tmp_path / "run"
    few = ["-o", "run.trackers=[]", "-o", "validation.prompts=2", "-o", "validation.evaluation_pairs=2"]
    assert vader(*TRAIN, *few, "--prompts", "fixed", "--monitor", "motion", "--out", run) == 0
    assert vader("push", run, "me/tiny-lora", "--dry-run", "--clips", 1) == 0
    assert "would be sent to https://huggingface.co/me/tiny-lora" in capsys.readouterr().out
    names = {str(path.relative_to(run / "hub")) for path in (run / "hub").rglob("*") if path.is_file()}
    assert names == {
        *("README.md", "config.yaml", "adapter_model.safetensors", "adapter_config.json"),
        *("clips/base_00.mp4", "clips/tuned_00.mp4"),
    }
    card = (run / "hub" / "README.md").read_text()
    for words in (
        "| brightness |",
        "`brightness` (weight 1)",
        "hub:me/tiny-lora",
        "While it was trained",
        "lora]",
    ):
        assert words in card
    assert vader("push", run, "me/tiny-lora", "--dry-run") == 0  # the earlier upload is replaced
    settings = run / "hub" / "adapter_config.json"
    own = json.loads(settings.read_text())
    for base, named in (("/home/me/wan-1.3b", "wan-1.3b"), ("Wan-AI/Wan2.1", "Wan-AI/Wan2.1"), (None, None)):
        settings.write_text(json.dumps(own | {"base_model_name_or_path": base}))
        pushed._name_alone(settings)
        assert json.loads(settings.read_text()) == own | {"base_model_name_or_path": named}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    assert vader("push", run, "me/tiny-lora", "--dry-run", "--out", tmp_path / "other") == 2
    assert (tmp_path / "other" / "mine.txt").read_text() == "keep"


def test_a_card_names_the_licence_of_weights_that_ship_with_a_plugin(registry):
    from vader_core import api
    from vader_core.api.push import _licence

    def licence(**backbone):
        return _licence(api.configure(registry=registry, backbone=backbone), registry)

    assert licence(name="demo") == "Apache-2.0"
    assert licence(name="demo", weights="random") is None
    assert licence(name="modelscope") == "cc-by-nc-4.0"
    assert licence(name="tiny") is None  # it has no weights


def test_a_hub_that_cannot_be_reached_is_one_message(vader, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    def refuses(*given, **named):
        raise OSError("no route")

    run = tmp_path / "run"
    assert vader(*TRAIN, *FAST, "--prompts", "fixed", "--out", run) == 0
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuses)
    assert vader("push", run, "me/it") == 1
    message = capsys.readouterr().err
    assert "the hub cannot be reached (OSError): the upload lies in" in message
    assert "Traceback" not in message


def test_a_lora_names_the_model_it_belongs_to(registry):
    from vader_core.run.base_model import base_model
    from vader_core.run.config import validated

    def base(**backbone):
        return base_model(validated({"backbone": backbone}), registry)

    assert base(name="videocrafter") == "VideoCrafter/VideoCrafter2"
    assert base(name="videocrafter", weights="hub:me/mine/model.ckpt@main") == "me/mine"
    assert base(name="videocrafter", weights="random") is None
    assert base(name="demo") is None


def test_a_reward_that_reads_the_text_asks_for_it(tmp_path, capsys):
    import torch

    from vader_core.cli import run
    from vader_core.video import write_video

    write_video(torch.rand(8, 3, 64, 64), tmp_path / "clip.mp4", 8.0)
    assert run(["score", str(tmp_path / "clip.mp4"), "--reward", "demo_alignment"]) == 2
    assert "judges a clip by its text, and" in capsys.readouterr().err
    words = "a red star spinning on a navy background"
    assert run(["score", str(tmp_path / "clip.mp4"), "--reward", "demo_alignment", "--prompt", words]) == 0


def test_a_lora_or_a_run_in_a_models_place_is_told_where_it_belongs(vader, tmp_path, capsys):
    import torch
    from safetensors.torch import save_file

    run = tmp_path / "run"
    assert vader(*TRAIN, *FAST, "--prompts", "fixed", "--out", run) == 0
    file = tmp_path / "mine.safetensors"
    save_file({"blocks.0.q.lora_A.weight": torch.zeros(2, 2), "blocks.0.q.alpha": torch.zeros(1)}, file)
    given = ["sample", "--prompts", "text:a cat", "--backbone"]
    capsys.readouterr()
    for place, kind in ((run, "a run"), (run / "checkpoints" / "step-000001", "a LoRA"), (file, "a LoRA")):
        assert vader(*given, "tiny", "--weights", place) == 2
        told = capsys.readouterr().err
        assert f"weights '{place}': it is {kind}, not a model: give it as --lora {place}" in told
        assert vader(*given, place) == 2
        told = capsys.readouterr().err
        assert f"its weights are --weights {place}, a LoRA or a run is --lora {place}" in told


def test_the_table_of_a_measurement_says_what_its_rows_are(capsys):
    from vader_core.cli.bench import _print_table

    plan = {"backbone": "tiny", "video": "16x16", "precision": "fp32", "device": "cpu", "steps": 2}
    result = {"plan": plan, "seconds_per_step": 2.0, "phases": {"decode": 0.5}, "floor_seconds": 0.5}
    result |= {"ratio_to_floor": 4.0, "matrix_rate_tera": 0.1}
    _print_table(result, {"seconds_per_step": 4.0, "phases": {}})
    told = capsys.readouterr().out
    assert "One optimizer step: tiny, 16x16, fp32 on cpu" in told
    for words in ("measured / earlier", "the step's operations at that rate, s", "measured seconds / these"):
        assert words in told
    assert "floor" not in told


def test_lists_in_a_pipe_keep_their_lines(capsys, monkeypatch):
    from vader_core.cli import run

    monkeypatch.setenv("COLUMNS", "60")
    assert run(["show", "backbone", "demo"]) == 0
    (line,) = (one for one in capsys.readouterr().out.splitlines() if "backbone.weights" in one)
    assert "hub:REPO[/FILE][@REV] or random" in line
    assert run(["doctor"]) == 0
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("files here"))
    assert "`vader weights` lists them" in line


def test_what_is_optional_is_fetched_only_when_it_is_asked_for(monkeypatch):
    from vader_core.cli import run

    fetched = []
    monkeypatch.setattr("vader_core.cli.weights.present", lambda wanted: None)
    monkeypatch.setattr("vader_core.wanted.present", lambda wanted: None)
    monkeypatch.setattr("vader_core.cli.weights.fetch", lambda wanted, **named: fetched.append(wanted.file))
    assert run(["weights", "videocrafter", "--download", "--json"]) == 0
    assert fetched == ["model.ckpt"]
    assert run(["weights", "videocrafter", "--download", "--optional", "--json"]) == 0
    assert "vader_videocrafter_pickscore.pt" in fetched


@pytest.mark.parametrize(
    ("kind", "name", "options", "files"),
    [
        ("backbone", "wan", {}, ["Wan2.1-T2V-1.3B-Diffusers"]),
        ("backbone", "wan", {"model": "2.2-a14b"}, ["Wan2.2-T2V-A14B-Diffusers"]),
        ("backbone", "wan", {"weights": "hub:me/mine"}, ["me/mine"]),
        ("backbone", "wan", {"weights": "random"}, []),
        ("backbone", "opensora", {"weights": "."}, ["OpenSora-VAE-v1.2", "t5-v1_1-xxl"]),
        ("reward", "hps", {}, ["HPS_v2.1_compressed.pt"]),
        ("reward", "hps", {"version": "v2.0"}, ["HPS_v2_compressed.pt"]),
        ("reward", "aesthetic", {"weights": "."}, ["aesthetic-model.pth"]),
        ("reward", "aesthetic", {"weights": "random"}, []),
        ("reward", "aesthetic_hps", {"aesthetic": {"weights": "."}}, ["aesthetic-model", "HPS_v2.1"]),
        ("prompt source", "hps_v2", {"style": "photo"}, ["benchmark/photo.json"]),
    ],
)
def test_only_the_files_that_the_options_read_are_wanted(kind, name, options, files):
    from vader_core.registry import load_registry
    from vader_core.wanted import files_read

    found = files_read(load_registry().get(kind, name), options)
    assert len(found) == len(files)
    for wanted, words in zip(found, files, strict=True):
        assert words in f"{wanted.repository}/{wanted.file}"


def test_a_download_fetches_what_is_read_and_the_list_says_how_to_get_the_rest(monkeypatch, capsys):
    from vader_core.cli import run

    fetched = []
    monkeypatch.setattr("vader_core.cli.weights.present", lambda wanted: None)
    monkeypatch.setattr("vader_core.wanted.present", lambda wanted: None)
    monkeypatch.setattr("vader_core.cli.weights.fetch", lambda one, **named: fetched.append(one.repository))
    assert run(["weights", "wan", "--download"]) == 0
    assert "read with -o backbone.model=2.1-14b" in capsys.readouterr().out
    assert run(["weights", "wan", "-o", "backbone.model=2.1-14b", "--download"]) == 0
    assert "1.3B" not in capsys.readouterr().out
    assert run(["weights", "--recipe", "wan_14b_hps", "--download"]) == 0
    assert [place for place in fetched if "Wan" in place] == [
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    ]
    capsys.readouterr()
    assert run(["weights", "wan", "-o", "reward.hps.version=v2.0"]) == 2
    assert "write backbone.K=VALUE" in capsys.readouterr().err


def test_the_table_of_an_evaluation_is_whole_at_eighty_columns(capsys, monkeypatch):
    from rich.console import Console

    from vader_core.cli.evaluate import _print_table

    monkeypatch.setattr("vader_core.cli.evaluate.console", lambda: Console(width=80, highlight=False))
    row = {"base": 4.055, "tuned": 7.295, "difference": 3.24, "ci95": [2.5652, 3.218], "win_rate": 1.0}
    names = ("demo_aesthetic", "demo_aesthetic_held_out")
    _print_table({"lora": "runs/demo", "pairs": 64, "evaluation": {"1.0": dict.fromkeys(names, row)}})
    told = capsys.readouterr().out
    assert "…" not in told
    assert told.count("+2.57 to +3.22") == 2
    assert max(len(line) for line in told.splitlines()) <= 80
    first = "".join(line[:24].strip() for line in told.splitlines()[2:])
    assert first == "".join(names)


def test_weights_of_another_size_are_told_in_a_line():
    import torch

    from vader_core.errors import VaderError
    from vader_core.weights import load_exactly

    def network(width):
        return torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(8)))

    with pytest.raises(VaderError) as caught:
        load_exactly(network(4), network(5).state_dict(), what="backbone 'x'")
    told = str(caught.value)
    assert told.startswith("backbone 'x': 0 missing, 0 unexpected, 16 of another shape; shape: 0.bias (5,)")
    assert "and 13 more" in told
    assert told.endswith("it is of another architecture of the same model")
    with pytest.raises(VaderError, match=r"tensors of a LoRA: give the file as --lora"):
        load_exactly(network(4), {"blocks.0.q.lora_A.weight": torch.zeros(1)}, what="backbone 'x'")


def test_a_checkpoint_is_sampled_with_its_runs_settings(vader, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "clips"
    assert vader(*TRAIN, *FAST, "--prompts", "fixed", "--guidance-scale", "2.5", "--out", run) == 0
    capsys.readouterr()
    asked = ["sample", "--lora", run / "checkpoints" / "step-000001", "--max-prompts", "1", "--out", out]
    assert vader(*asked) == 0
    assert "1 video in" in capsys.readouterr().out
    (entry,) = json.loads((out / "prompts.json").read_text())
    assert entry["settings"]["backbone"]["name"] == "tiny"
    assert entry["settings"]["sampler"]["num_steps"] == 2
    assert entry["settings"]["sampler"]["guidance_scale"] == 2.5
