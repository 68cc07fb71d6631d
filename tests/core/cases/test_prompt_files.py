"""Prompt files as other programs write them: read as a person reads them, or one message with the line."""

import json
import os

import pytest

from vader_core.builtin.prompts.file import read_prompts
from vader_core.errors import VaderError


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_line_ends_end_a_line(tmp_path, mark, end):
    path = written(tmp_path, "a.txt", f"a cat{mark} on a mat{end}a dog{end}")
    assert [prompt.text for prompt in read_prompts(path)] == [f"a cat{mark} on a mat", "a dog"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_separators_within_json_are_text(tmp_path, mark):
    path = written(tmp_path, "a.jsonl", f'{{"text": "a{mark}b"}}\r\n{{"text": "c"}}\r\n')
    assert [prompt.text for prompt in read_prompts(path)] == [f"a{mark}b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "a dog"}\n{"text": "a cat \\ud83d"}\n', "line 2: there is half a surrogate"),
        ("a.jsonl", '{"text": "a", "note": ["\\udc00"]}\n', "line 1: there is half a surrogate"),
        (
            "a.jsonl",
            '{"text": "a", "x": ' + "[" * 80_000 + "]" * 80_000 + "}\n",
            "line 1: not a prompt: nested",
        ),
        ("a.jsonl", '{"text": "a", "x": ' + "1" * 10_000 + "}\n", "line 1: not a prompt: a number"),
        (
            "a.csv",
            "prompt;negative\na cat, running;blur\n",
            "line 1: the columns are separated by semicolons",
        ),
        ("a.csv", "text\tnegative\na cat\tblur\n", "line 1: the columns are separated by tabs"),
        ("a.csv", "sep=;\nprompt;negative\na cat;blur\n", "line 1: `sep=;` says"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "x": {"y": 1, "y": 2}}\n', "line 2: 'y' is given twice"),
        ("a.txt", "a cat\na dog\n".encode("utf-16"), "line 1: this is UTF-16"),
        ("a.txt", "a cat\n".encode("utf-16-le"), "line 1: there is a zero byte"),
        ("a.csv", "text\na cat\n".encode("utf-32"), "line 1: this is UTF-32"),
        ("a.txt", "a\nb\xe4r\n".encode("latin-1"), "line 2: this is not UTF-8"),
    ],
)
def test_what_cannot_be_read_names_file_line_and_reason(tmp_path, name, content, words):
    path = written(tmp_path, name, content)
    with pytest.raises(VaderError, match=words) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


def test_a_spreadsheets_line_that_names_the_comma_is_no_header(tmp_path):
    path = written(tmp_path, "a.csv", "\ufeffsep=,\nprompt,negative\na cat,blur\n")
    assert [(prompt.text, prompt.negative) for prompt in read_prompts(path)] == [("a cat", "blur")]


def test_a_torn_picture_is_found_before_the_model_loads(tmp_path):
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    path = written(tmp_path, "a.csv", "text,image\na cat,b.png\n")
    with pytest.raises(VaderError, match=r"line 2: picture .*b\.png cannot be read"):
        read_prompts(path)


def test_semicolons_within_a_text_are_text(tmp_path):
    path = written(tmp_path, "a.csv", 'text,negative\n"a cat; a prompt; a dog",blur\n')
    assert read_prompts(path)[0].text == "a cat; a prompt; a dog"


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "~nobody_here/a.png"])
def test_a_picture_that_no_file_can_be_named_is_refused_with_its_line(tmp_path, name):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "a cat", "image": name}))
    with pytest.raises(VaderError, match=r"line 1: .*(at most|no such home)"):
        read_prompts(path)


def test_a_pipe_in_place_of_a_prompt_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.txt")
    with pytest.raises(VaderError, match="no regular file"):
        read_prompts(tmp_path / "p.txt")
