"""VADER's LoRA files, both ways."""

from __future__ import annotations

import pytest
import torch
from tiny_opensora import make
from vader_opensora.lora_format import PREFIX, OpenSoraLora

from vader_core.errors import VaderError
from vader_core.lora.adapter import LoraSettings, adapter_of, attach_adapter, attach_lora
from vader_core.lora.formats import Adapter


def adapter(rank=4, alpha=8.0) -> Adapter:
    model = make().denoiser
    attach_lora(model, LoraSettings(rank=rank, alpha=alpha, targets=("qkv", "q_linear", "kv_linear")))
    found = adapter_of(model)
    return Adapter({name: torch.randn_like(value) for name, value in found.tensors.items()}, rank, alpha)


@pytest.mark.parametrize("file", ["peft_model_10.pt", "lora.safetensors"])
def test_round_trip(tmp_path, file):
    given, path = adapter(), tmp_path / file
    OpenSoraLora().write(given, path)
    assert OpenSoraLora().recognises(path)
    again = OpenSoraLora().read(path)
    assert (again.rank, again.alpha) == (4, 8.0)
    assert again.tensors.keys() == given.tensors.keys()
    assert all(torch.equal(again.tensors[name], value) for name, value in given.tensors.items())
    assert len(attach_adapter(make().denoiser, again, what="it").modules) == 12


def test_another_alpha_is_folded(tmp_path):
    given, path = adapter(alpha=16.0), tmp_path / "lora.pt"
    OpenSoraLora().write(given, path)
    again = OpenSoraLora().read(path)
    for name, value in given.tensors.items():
        factor = 2.0 if ".lora_B." in name else 1.0
        assert torch.equal(again.tensors[name], value * factor)


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "lora.pt"
    one = {"spatial_blocks.0.attn.qkv.lora_A.weight": torch.zeros(2, 8)}
    for tensors, said in (
        ({"unet.lora_A.weight": torch.zeros(2, 8)}, "does not begin with"),
        ({f"{PREFIX}unet.lora_A.weight": torch.zeros(2, 8)}, "is not a tensor of an Open-Sora LoRA"),
        ({f"{PREFIX}{name}": value for name, value in one.items()}, "has no counterpart"),
    ):
        torch.save(tensors, path)
        with pytest.raises(VaderError, match=said):
            OpenSoraLora().read(path)
    assert not OpenSoraLora().recognises(tmp_path / "nothing.pt")
    foreign = Adapter({"x_embedder.lora_A.weight": torch.zeros(2, 8)}, 2, 8.0)
    with pytest.raises(VaderError, match="is not a tensor of an Open-Sora LoRA"):
        OpenSoraLora().write(foreign, path)
