"""A token that was pasted is kept nowhere."""

import sys

from vader_core.run.directory import environment

TOKEN = "hf_" + "aB3" * 10


def test_a_pasted_token_is_refused_and_not_repeated(vader, tmp_path, capsys):
    run = ["train", "--backbone", "tiny", "--reward", "brightness", "--out", tmp_path / "run"]
    for word in (TOKEN, f"https://me:{TOKEN}@host/x", f"text:a cat {TOKEN}", "sk-" + "x" * 30):
        assert vader(*run, "--prompts", word) == 2
        message = capsys.readouterr().err
        assert "HF_TOKEN" in message
        assert TOKEN not in message
    assert not list(tmp_path.iterdir())


def test_a_scripts_own_token_is_not_recorded(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", f"--token={TOKEN}", "plain"])
    assert environment()["command"] == ["script.py", "--token=***", "plain"]
