"""A flag of one value that is given twice is refused, however it is written."""

import pytest

from vader_core.cli import run


@pytest.mark.parametrize(
    "words",
    [
        ["--lr", "1", "--lr", "2"],
        ["--lr=1", "--lr", "1"],
        ["--seed", "1", "--quiet", "--seed=2"],
        ["--prompts", "text:a", "--prompts", "text:b"],
    ],
)
def test_two_values_of_one_flag_are_refused(capsys, words):
    assert run(["train", "--dry-run", *words]) == 2
    assert f"{words[0].partition('=')[0]} is given twice" in capsys.readouterr().err


def test_commands_within_commands_too(capsys):
    assert run(["lora", "convert", "a", "b", "--to", "peft", "--to", "diffusers"]) == 2
    assert "--to is given twice (peft and diffusers)" in capsys.readouterr().err


def test_what_may_be_repeated_and_words_that_look_like_flags_are_no_fault(vader, capsys):
    run = ["train", "--dry-run", "--backbone", "tiny", "--prompts", "fixed", "--device", "cpu"]
    assert vader(*run, "--reward", "brightness", "--reward", "motion", "--negative-prompt", "--lr") == 0
