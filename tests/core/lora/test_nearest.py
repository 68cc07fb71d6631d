"""A LoRA file that no format knows: which it is nearest to, and the name that does not fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vader_core.errors import VaderError
from vader_core.registry import load_registry
from vader_core.run.adapters import read_adapter

UNET = "base_model.model.model.diffusion_model.input_blocks.{}.1.q.lora_{}.weight"
WAN = "diffusion_model.blocks.{}.self_attn.q.lora_{}.weight"


def refused(path, names):
    save_file({name: torch.zeros(2, 2) for name in names}, path)
    with pytest.raises(VaderError) as caught:
        read_adapter(path, load_registry())
    return str(caught.value)


def test_one_renamed_name_is_told_with_the_format(tmp_path):
    names = [UNET.format(n, side) for n in range(1, 9) for side in "AB"]
    wrong = names[5].replace("lora_", "lora_x")
    message = refused(tmp_path / "bad.safetensors", [*names[:5], *names[6:], wrong])
    assert f"it is nearest to 'videocrafter', which does not know {wrong!r}" in message


def test_two_strange_names_of_another_format(tmp_path):
    names = [WAN.format(n, side) for n in range(8) for side in "AB"]
    message = refused(tmp_path / "bad.safetensors", [*names, "step", "diffusion_model.blocks.0.extra"])
    strange = "'diffusion_model.blocks.0.extra', 'step'"
    assert f"it is nearest to 'wan_comfyui', which does not know {strange}" in message


def test_what_is_no_lora_is_near_to_nothing(tmp_path):
    message = refused(tmp_path / "model.safetensors", [f"layer.{n}.weight" for n in range(40)])
    assert "a file of no known LoRA format: its first tensor is 'layer.0.weight'" in message
    assert "nearest" not in message


@pytest.mark.timeout(30)
def test_a_file_without_tensors_is_near_to_nothing(tmp_path):
    assert "it holds no tensors by name" in refused(tmp_path / "empty.safetensors", [])
