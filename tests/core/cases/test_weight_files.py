"""What lies where weights should be, and what training code wraps them in."""

import json
import os
import pickle
import re
import zipfile
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vader_core.errors import VaderError
from vader_core.weights import in_brackets, load_exactly, load_tensors, tensor_names
from vader_core.wrappings import unwrapped


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))


def named(prefix=""):
    return {prefix + name: value.clone() for name, value in model().state_dict().items()}


def shards(folder, ending, save):
    folder.mkdir()
    tensors = named()
    places = {}
    for number, names in enumerate((list(tensors)[:2], list(tensors)[2:]), 1):
        file = f"model-{number:05d}-of-00002.{ending}"
        save({name: tensors[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    (folder / f"model.{ending}.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def same(found):
    wanted = named()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value)


@pytest.mark.parametrize(
    "wrapped",
    [
        named("module."),
        named("_orig_mod."),
        named("module._orig_mod."),
        named("_orig_mod.module."),
        {"state_dict": named("module.")},
        {"ema_model": named()},
        {"params_ema": named(), "params": {"x": torch.zeros(1)}},
        {"module": named(), "global_step": 3},
        {"module": named("_forward_module.")},
        {"model": {"state_dict": named()}, "epoch": 1},
        {"state_dict": named("_orig_mod."), "optimizer_states": [{}]},
        {"ema_model": {**named(), "decay": 0.99, "updates": 3, "kind": "ema", "nothing": None}, "epoch": 2},
        {"ema": {"decay": 0.99, "num_updates": 3}, "state_dict": named()},
        {"ema": {"decay": 0.99, "shadow": named("module.")}, "model": {"x": torch.zeros(1)}},
        {"ema": 0.99, "net": named()},
        {"generator": {"x": torch.zeros(1)}, "generator_ema": named(), "critic": {"y": torch.zeros(1)}},
        {"model": {k.replace(".", "._checkpoint_wrapped_module.", 1): v for k, v in named().items()}},
        {"model": {k.replace(".", "._fsdp_wrapped_module.", 1): v for k, v in named().items()}},
        {"state_dict": named("_forward_module.module.")},
    ],
)
def test_what_training_code_wraps_weights_in_is_taken_off(tmp_path, wrapped):
    torch.save(wrapped, tmp_path / "a.ckpt")
    same(unwrapped(load_tensors(tmp_path / "a.ckpt"), what="a"))


def test_what_may_hold_more_weights_is_not_left_out_silently(tmp_path):
    for more in ({"x": torch.zeros(1)}, [torch.zeros(1)]):
        with pytest.raises(VaderError, match="no flat dictionary of tensors"):
            unwrapped({"state_dict": {**named(), "more": more}}, what="a")


def test_lightnings_average_stands_in_for_the_weights():
    trained = {f"model.{name}": torch.zeros_like(value) for name, value in named().items()}
    average = {f"model_ema.{name.replace('.', '')}": value for name, value in named().items()}
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(1)}
    found = unwrapped({"state_dict": trained | average | counters}, what="a")
    same({name.removeprefix("model."): value for name, value in found.items()})


@pytest.mark.parametrize(("ending", "save"), [("bin", torch.save), ("safetensors", save_file)])
def test_shards_are_read_by_their_folder(tmp_path, ending, save):
    folder = shards(tmp_path / "a", ending, save)
    same(load_tensors(folder))
    with pytest.raises(VaderError, match="one of 2 shards; give the folder"):
        load_tensors(folder / f"model-00001-of-00002.{ending}")
    (folder / f"model-00002-of-00002.{ending}").unlink()
    with pytest.raises(VaderError, match="names the shard model-00002-of-00002"):
        load_tensors(folder)


@pytest.mark.parametrize("ending", ["safetensors", "pth", "ckpt"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "git-lfs pointer.*git lfs pull",
        ),
        (b"<!DOCTYPE html><html>Please sign in</html>", "web page"),
        (b"\n <HTML><body>", "web page"),
        (b'{"error": "not found"}', "JSON text"),
        (b"", "empty"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"Entry not found", "text, neither"),
        (bytes(4096), "nothing but zero bytes"),
        (b"a.pt" + bytes(253) + b"ustar" + bytes(300), "a tar archive"),
        ((900).to_bytes(8, "little") + b'{"a":', "cut off"),
    ],
)
def test_what_is_no_weights_is_said_to_be_what_it_is(tmp_path, ending, content, words):
    path = tmp_path / f"model.{ending}"
    path.write_bytes(content)
    with pytest.raises(VaderError, match=words) as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("__0_0.distcp", "torch.distributed, as FSDP writes it"),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "a checkpoint of DeepSpeed"),
        ("zero_to_fp32.py", "a checkpoint of DeepSpeed"),
        ("model.safetensors", "^$"),
    ],
)
def test_what_training_code_left_sharded_is_to_be_gathered(tmp_path, name, words):
    (tmp_path / name).touch()
    assert re.search(words, in_brackets(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_the_content_decides_and_not_the_name(tmp_path, name):
    save_file(named(), tmp_path / name)
    same(load_tensors(tmp_path / name))
    torch.save(named(), tmp_path / name)
    same(load_tensors(tmp_path / name))


class Attack:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_an_unsafe_global_is_named_and_not_run(tmp_path):
    torch.save({"a": Attack()}, tmp_path / "a.pt")
    with pytest.raises(VaderError, match=r"more than tensors \((posix|nt)\.system\)"):
        load_tensors(tmp_path / "a.pt")


def test_damaged_files_are_one_message(tmp_path):
    torch.save(named(), tmp_path / "a.pt")
    save_file(named(), tmp_path / "b.safetensors")
    generator = torch.Generator().manual_seed(0)
    for source in (tmp_path / "a.pt", tmp_path / "b.safetensors"):
        content = source.read_bytes()
        for _ in range(60):
            place, value = (int(torch.randint(len(content), (1,), generator=generator)) for _ in range(2))
            damaged = content[:place] + bytes([value % 256]) + content[place + 1 :]
            cut = tmp_path / "c"
            cut.write_bytes(damaged if value % 3 else damaged[:place])
            with suppress(VaderError):  # anything else is a traceback
                load_tensors(cut)


def test_a_deep_pickle_and_a_deep_header_are_one_message(tmp_path):
    (tmp_path / "a").write_bytes(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    with pytest.raises(VaderError):
        load_tensors(tmp_path / "a")
    header = b'{"a":' + b"[" * 100_000
    (tmp_path / "b").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(VaderError, match="not a readable safetensors file"):
        load_tensors(tmp_path / "b")


def test_a_header_without_end_is_refused_unread(tmp_path):
    length = 40 << 20
    with (tmp_path / "a").open("wb") as stream:
        stream.write(length.to_bytes(8, "little") + b'{"a":')
        stream.truncate(length + 8)
    for read in (load_tensors, lambda path: tensor_names(path) or load_tensors(path)):
        with pytest.raises(VaderError, match="header is said to be 41,943,040 bytes"):
            read(tmp_path / "a")


def test_an_archive_that_unpacks_without_bound_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(100 << 20))
    with pytest.raises(VaderError, match="compressed archive"):
        load_tensors(tmp_path / "a.pt")


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "a.pt")
    with pytest.raises(VaderError, match=r"\(1000000000,\) has only 4 bytes"):
        load_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_their_tensor(value):
    tensors = named()
    tensors["1.bias"][0] = value
    with pytest.raises(VaderError, match=r"1\.bias holds"):
        load_exactly(model(), tensors, what="a")


def test_tensors_without_numbers_are_refused(tmp_path):
    torch.save({name: value.to("meta") for name, value in named().items()}, tmp_path / "a.pt")
    with pytest.raises(VaderError, match="holds no numbers: its tensors are on the meta device"):
        load_tensors(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_program_is_said_to_be_one(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "a.pt"))
    with pytest.raises(VaderError, match="it is a TorchScript program, not weights"):
        load_tensors(tmp_path / "a.pt")
