"""EasyAnimate's LoRA files, both ways."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_easyanimate import make
from vader_easyanimate.lora_format import EasyAnimateLora, checksums
from vader_easyanimate.lora_names import dotted, flattened

from vader_core.errors import VaderError
from vader_core.lora.adapter import LoraSettings, adapter_of, attach_adapter, attach_lora
from vader_core.lora.formats import Adapter


def adapter(rank=4, alpha=2.0, dtype=torch.float32, targets=None) -> Adapter:
    backbone = make()
    attach_lora(backbone.denoiser, LoraSettings(rank, alpha, targets or backbone.lora_targets))
    found = adapter_of(backbone.denoiser)
    return Adapter(
        {name: torch.randn_like(value).to(dtype) for name, value in found.tensors.items()}, rank, alpha
    )


def same(first: Adapter, second: Adapter) -> None:
    assert (first.rank, first.alpha) == (second.rank, second.alpha)
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], value) for name, value in second.tensors.items())


def test_every_linear_layer_has_a_name_that_comes_back():
    linears = [name for name, one in make().denoiser.named_modules() if isinstance(one, torch.nn.Linear)]
    assert len(linears) > 90
    assert all(dotted(flattened(name)) == name for name in linears)
    assert len({flattened(name) for name in linears}) == len(linears)


def test_default_targets_are_every_linear_layer():
    backbone = make()
    linears = {name for name, one in backbone.denoiser.named_modules() if isinstance(one, torch.nn.Linear)}
    attached = attach_lora(backbone.denoiser, LoraSettings(2, 2.0, backbone.lora_targets))
    assert set(attached.modules) == linears


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_round_trip(tmp_path, dtype):
    given, path = adapter(dtype=dtype), tmp_path / "lora.safetensors"
    EasyAnimateLora().write(given, path)
    assert EasyAnimateLora().recognises(path)
    same(EasyAnimateLora().read(path), given)
    stored = load_file(path)
    alphas = [value for name, value in stored.items() if name.endswith(".alpha")]
    assert {value.dtype for value in alphas} == {torch.int64 if dtype == torch.float32 else dtype}
    attach_adapter(make().denoiser, EasyAnimateLora().read(path), what="it")


def test_metadata_holds_the_checksums_of_the_file_without_metadata(tmp_path):
    import hashlib

    path = tmp_path / "lora.safetensors"
    EasyAnimateLora().write(adapter(), path)
    with safe_open(path, "pt") as file:
        said = file.metadata()
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(path), bare)
    content = bare.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + header]).get("__metadata__") is None
    assert said["sshs_model_hash"] == hashlib.sha256(content[8 + header :]).hexdigest()
    assert said["sshs_legacy_hash"] == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert checksums(load_file(path)) == said


def test_another_scale_of_one_module_goes_into_its_matrix(tmp_path):
    path, key = tmp_path / "lora.safetensors", "lora_unet__proj_out"
    EasyAnimateLora().write(adapter(), path)
    tensors = load_file(path)
    tensors[f"{key}.alpha"] = torch.tensor(8)
    save_file(tensors, path)
    again = EasyAnimateLora().read(path)
    assert (again.rank, again.alpha) == (4, 2.0)
    assert torch.equal(again.tensors["proj_out.lora_B.weight"], tensors[f"{key}.lora_up.weight"] * 4)


def test_without_motion_modules(tmp_path):
    targets = ("attn1.to_q", "attn2.to_k")
    given, path = adapter(targets=targets), tmp_path / "lora.safetensors"
    EasyAnimateLora().write(given, path)
    same(EasyAnimateLora().read(path), given)


def test_a_text_encoders_part_is_named(tmp_path):
    path = tmp_path / "lora.safetensors"
    EasyAnimateLora().write(adapter(), path)
    text = {
        "lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.ones(2, 8),
        "lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": torch.ones(8, 2),
    }
    save_file(load_file(path) | text, path)
    with pytest.warns(UserWarning, match=r"also changes the text encoder: add -o backbone\.text_lora="):
        EasyAnimateLora().read(path)
    save_file(text, path)
    assert EasyAnimateLora().recognises(path)
    with pytest.raises(VaderError, match=r"holds nothing for the denoiser; .*backbone\.text_lora="):
        EasyAnimateLora().read(path)


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "lora.safetensors"
    key = "lora_unet__proj_out"
    down, wrong = torch.zeros(2, 8), torch.zeros(4, 3)
    for tensors, said in (
        ({"lora_unet_down_blocks.lora_down.weight": down}, "begins with neither"),
        ({"lora_unet__norm.lora_down.weight": down}, "names no module"),
        ({f"{key}.weight": down}, "names no module"),
        ({f"{key}.lora_down.weight": down}, "has no lora_up.weight"),
        ({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": wrong}, "were expected"),
    ):
        save_file(tensors, path)
        with pytest.raises(VaderError, match=said):
            EasyAnimateLora().read(path)
    assert not EasyAnimateLora().recognises(tmp_path / "nothing.safetensors")
    save_file({"lora_unet_down_blocks.lora_down.weight": down}, path)
    assert not EasyAnimateLora().recognises(path)
    patch = Adapter({f"pos_embed.proj.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}, 2, 2.0)
    with pytest.raises(VaderError, match=r"knows no LoRA in 'pos_embed\.proj'"):
        EasyAnimateLora().write(patch, path)
    with pytest.raises(VaderError, match="has no counterpart"):
        EasyAnimateLora().write(Adapter({"proj_out.lora_A.weight": down}, 2, 2.0), path)
    with pytest.raises(VaderError, match=r"end in \.safetensors"):
        EasyAnimateLora().write(adapter(), tmp_path / "lora.pt")
