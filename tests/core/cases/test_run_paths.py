"""Paths as people type them, and what a run keeps of them; a run's records and its settings."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import vader_core
from vader_core.cli.options import run_base
from vader_core.cli.paths import EnteredPath
from vader_core.errors import VaderError
from vader_core.paths import entered, kept_place, kept_source, run_of
from vader_core.run.config import validated
from vader_core.run.directory import Run


def test_a_path_is_entered_in_one_place_alone():
    """``Path.expanduser`` raises RuntimeError where there is no such home folder."""
    root = Path(vader_core.__file__).parents[1]
    sources = [*root.glob("vader_core/**/*.py"), *root.glob("plugins/*/vader_*/**/*.py")]
    assert len(sources) > 300
    found = [path for path in sources if ".expanduser(" in path.read_text(encoding="utf-8")]
    assert [path.name for path in found] == ["paths.py"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder_in_flags_too(home):
    @click.command()
    @click.option("--out", type=EnteredPath())
    def command(out):
        click.echo(out)

    assert CliRunner().invoke(command, ["--out=~/runs/x"]).output.strip() == str(home / "runs/x")
    with pytest.raises(VaderError, match="no such home folder"):
        entered("~nobody_of_that_name/x")


def test_prompt_files_are_kept_usable_from_another_folder(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kept_source("file:p.txt") == f"file:{tmp_path}/p.txt"
    assert kept_source("images:~/a") == f"images:{home}/a"
    assert kept_source("text:file:p.txt") == "text:file:p.txt"
    assert kept_source("animal") == "animal"
    (tmp_path / "w.safetensors").touch()
    assert kept_place("w.safetensors") == str(tmp_path / "w.safetensors")
    assert [kept_place(word) for word in ("random", "hub:a/b", None)] == ["random", "hub:a/b", None]


@pytest.fixture
def run(home):
    folder = home / "runs/x"
    (folder / "checkpoints/best").mkdir(parents=True)
    (folder / "checkpoints/best/adapter_model.safetensors").touch()
    (folder / "config.yaml").write_text("backbone: {name: demo}\nlora: {start: other, dropout: 0.5}\n")
    return folder


@pytest.mark.parametrize(
    "tail", ["", "/", "/checkpoints/best", "/checkpoints/best/adapter_model.safetensors", ":0.5"]
)
def test_an_adapter_keeps_its_runs_settings(run, tail):
    for text in (f"{run}{tail}", f"~/runs/x{tail}"):
        assert run_of(text) == run
        base = run_base(text)
        assert base["backbone"] == {"name": "demo"}
        assert base["lora"] == {"start": None, "dropout": "0.5"}


def test_an_adapter_of_no_run_has_no_settings(run, tmp_path):
    assert run_of(str(tmp_path)) is None
    assert run_of("hub:a/b") is None
    (run / "elsewhere").mkdir()
    assert run_of(str(run / "elsewhere")) is None


def test_a_corrupt_line_costs_itself_alone(tmp_path):
    with Run.create(tmp_path / "r", validated({})) as run:
        for step in range(4):
            run.append({"step": step, "note": "a\u2028b"})
        lines = (run.folder / "metrics.jsonl").read_bytes().split(b"\n")
        lines[1] = b'{"step": \xff'
        (run.folder / "metrics.jsonl").write_bytes(b"\n".join(lines) + b'{"step": 4, "tor')
        assert [record["step"] for record in run.metrics()] == [0, 2, 3]
        run.cut_metrics(2)
        assert [record["step"] for record in run.metrics()] == [0, 2]


def test_the_settings_a_run_began_with_are_kept_beside_the_file(tmp_path):
    config = validated({"trainer": {"lr": 1e-4}})
    with Run.create(tmp_path / "r", config) as run:
        assert run.recorded() == run.config() == config
        text = (run.folder / "config.yaml").read_text()
        (run.folder / "config.yaml").write_text(text.replace("0.0001", "0.5"))
        assert run.config().trainer.lr == 0.5
        assert run.recorded().trainer.lr == 1e-4
        environment = json.loads((run.folder / "environment.json").read_text())
        run.record(validated({"trainer": {"lr": 0.5}}))
        assert run.recorded().trainer.lr == 0.5
        assert json.loads((run.folder / "environment.json").read_text())["time"] == environment["time"]
        (run.folder / "environment.json").write_text("[")
        assert run.recorded() == run.config()
        assert isinstance(run.folder, Path)
