"""A folder in transformers' layout runs no code of its own, and ends in one message."""

import json
import os

import pytest
from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTokenizer, T5EncoderModel

from vader_core.errors import VaderError
from vader_core.model_folder import from_folder

CODE = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\nclass Own: pass\n"


def made(folder, **files):
    folder.mkdir()
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def refused(kind, folder, match="cannot be read|code of its own|neither a file"):
    with pytest.raises(VaderError, match=match) as caught:
        from_folder(kind, folder, what="the text encoder")
    assert str(caught.value).startswith("the text encoder: ")
    return str(caught.value)


@pytest.mark.parametrize("kind", [AutoModel, AutoTokenizer, AutoConfig])
def test_no_code_of_a_folder_runs(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    maps = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    config = {"model_type": "made_up", "auto_map": maps, "tokenizer_class": "Own"}
    folder = made(tmp_path / "a", config__json=config, tokenizer_config__json=config, own__py=CODE.encode())
    refused(kind, folder)
    assert not list(tmp_path.rglob("ran"))


DEEP = b'{"a":' + b"[" * 100_000
FOLDERS = {
    "empty": {},
    "no json": {"config__json": b"\xff\xfe{"},
    "a list": {"config__json": []},
    "deep": {"config__json": DEEP, "tokenizer_config__json": DEEP},
    "no type": {"config__json": {"a": 1}},
    "a wrong type": {"config__json": {"model_type": 3}},
    "wrong numbers": {"config__json": {"model_type": "t5", "d_model": "many", "num_layers": -1}},
    "no weights": {"config__json": {"model_type": "t5", "d_model": 8, "num_layers": 1, "vocab_size": 9}},
    "torn weights": {
        "config__json": {"model_type": "t5", "d_model": 8, "num_layers": 1, "vocab_size": 9},
        "model__safetensors": b"\x08\0\0\0\0\0\0\0{}",
    },
    "a pickle": {
        "config__json": {"model_type": "t5", "d_model": 8, "num_layers": 1, "vocab_size": 9},
        "pytorch_model__bin": b"cos\nsystem\n(S'touch ran'\ntR.",
    },
    "a torn tokenizer": {"tokenizer__json": {"version": 1}, "tokenizer_config__json": {"tokenizer_class": 1}},
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_is_one_message(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = made(tmp_path / "a", **FOLDERS[name])
    kinds = [T5EncoderModel, AutoTokenizer, CLIPTokenizer]
    for kind in kinds[:1] if "weights" in name or name == "a pickle" else kinds:
        refused(kind, folder)
    assert not list(tmp_path.rglob("ran"))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    folder = made(tmp_path / "a")
    os.mkfifo(folder / "config.json")
    assert "neither a file" in refused(AutoTokenizer, folder)
