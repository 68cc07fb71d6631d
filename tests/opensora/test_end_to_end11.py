"""A tiny Open-Sora 1.1 through the whole core: reward gradients, clips, LoRA files."""

from __future__ import annotations

import pytest
import torch
from tiny_opensora11 import make

from vader_core.builtin.lora.diffusers import DiffusersFile
from vader_core.builtin.lora.peft import PeftFolder
from vader_core.lora.adapter import LoraSettings, adapter_of, attach_adapter, attach_lora
from vader_core.lora.formats import Adapter


def adapter() -> Adapter:
    backbone = make()
    attach_lora(backbone.denoiser, LoraSettings(rank=4, alpha=8.0, targets=backbone.lora_targets))
    found = adapter_of(backbone.denoiser)
    drawn = {name: torch.randn_like(value) for name, value in found.tensors.items()}
    return Adapter(drawn, 4, 8.0)


@pytest.mark.parametrize(("form", "place"), [(PeftFolder, "lora"), (DiffusersFile, "lora.safetensors")])
def test_lora_files(tmp_path, form, place):
    given, path = adapter(), tmp_path / place
    form().write(given, path)
    assert form().recognises(path)
    again = form().read(path)
    assert again.tensors.keys() == given.tensors.keys()
    # A file of diffusers knows no alpha: it is folded into the second half.
    strength = given.alpha / given.rank * again.rank / again.alpha
    for name, value in given.tensors.items():
        factor = strength if ".lora_B." in name else 1.0
        torch.testing.assert_close(again.tensors[name], value * factor)
    # Three blocks with four modules each: attention within and across frames, and both inputs of the text's.
    assert len(attach_adapter(make().denoiser, again, what="it").modules) == 12
