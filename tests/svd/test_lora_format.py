"""The adapter leaves and returns: as peft's folder, and as the file that diffusers reads."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.loaders import PeftAdapterMixin
from peft import PeftModel
from vader_svd.lora_format import DiffusersLora

from vader_core import VaderError
from vader_core.lora.adapter import LoraSettings, adapter_of, adapter_parameters, attach_lora, save_adapter
from vader_core.lora.formats import Adapter
from vader_core.registry import load_registry
from vader_core.run.adapters import read_adapter
from vader_core.weights import save_tensors


class LoadableUNet(UNetSpatioTemporalConditionModel, PeftAdapterMixin):
    """The one line that diffusers' class lacks."""


def output(unet):
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 3, 8, 8, 8, generator=generator)
    context = torch.randn(2, 1, 32, generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02]] * 2)
    with torch.no_grad():
        return unet(sample, torch.tensor([0.3]), encoder_hidden_states=context, added_time_ids=ids).sample


@pytest.fixture(scope="module")
def tuned(make_backbone):
    """A U-Net with a LoRA of rank 3 and alpha 6, and what it was before."""
    base = make_backbone().denoiser
    unet = copy.deepcopy(base)
    attached = attach_lora(unet, LoraSettings(3, 6.0, make_backbone(load=False).lora_targets))
    assert len(attached.modules) == 48
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter_parameters(unet).values():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    assert not torch.allclose(output(unet), output(base), atol=1e-2)
    return unet, base


def test_query_and_key_of_cross_attention_get_no_lora(tuned):
    names = set(adapter_parameters(tuned[0]))
    assert not any("attn2.to_q" in name or "attn2.to_k" in name for name in names)
    for kind in ("transformer_blocks.0.attn1.to_q", "temporal_transformer_blocks.0.attn2.to_out.0"):
        assert any(kind in name for name in names)


def test_peft_reads_the_folder(tuned, tmp_path):
    unet, base = tuned
    save_adapter(adapter_of(unet), tmp_path)
    read = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    torch.testing.assert_close(output(read), output(unet), atol=1e-5, rtol=1e-5)


def test_diffusers_reads_the_file(tuned, tmp_path):
    unet, base = tuned
    path = tmp_path / "lora.safetensors"
    DiffusersLora().write(adapter_of(unet), path)
    theirs = LoadableUNet(**{k: v for k, v in base.config.items() if not k.startswith("_")})
    theirs.load_state_dict(base.state_dict())
    theirs.eval().load_lora_adapter(str(tmp_path), prefix=None, weight_name=path.name)
    torch.testing.assert_close(output(theirs), output(unet), atol=1e-5, rtol=1e-5)


def test_the_file_is_recognised_and_read_back(tuned, tmp_path):
    unet, base = tuned
    path = tmp_path / "lora.safetensors"
    DiffusersLora().write(adapter_of(unet), path)
    adapter = read_adapter(path, load_registry())
    assert (adapter.rank, adapter.alpha) == (3, 3.0)
    from vader_core.lora.adapter import attach_adapter

    again = copy.deepcopy(base)
    attach_adapter(again, adapter, what="the file")
    torch.testing.assert_close(output(again), output(unet), atol=1e-5, rtol=1e-5)


def pair(module="mid_block.attentions.0.transformer_blocks.0.attn1.to_q", rank=2):
    return {
        f"{module}.lora_A.weight": torch.ones(rank, 64),
        f"{module}.lora_B.weight": torch.ones(64, rank),
    }


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({**pair(), "other.weight": torch.ones(1)}, "other.weight is no tensor of a plain LoRA"),
        (dict(list(pair().items())[:1]), "has no counterpart"),
    ],
)
def test_files_with_a_mistake_are_refused(tmp_path, tensors, words):
    path = tmp_path / "lora.safetensors"
    save_tensors(tensors, path)
    with pytest.raises(VaderError, match=words):
        DiffusersLora().read(path)


def test_the_prefix_of_pipelines_is_understood(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_tensors({f"unet.{name}": value for name, value in pair().items()}, path)
    assert DiffusersLora().recognises(path)
    assert DiffusersLora().read(path).tensors.keys() == pair().keys()


def test_another_models_adapter_is_not_written(tmp_path):
    with pytest.raises(VaderError, match="no LoRA key of this U-Net"):
        DiffusersLora().write(
            Adapter(pair("input_blocks.1.attn1.to_q"), 2, 2.0), tmp_path / "lora.safetensors"
        )


def test_what_is_no_lora_is_not_recognised(tmp_path):
    (tmp_path / "text.safetensors").write_text("nothing")
    save_tensors({"weight": torch.ones(1)}, tmp_path / "other.safetensors")
    for name in ("text.safetensors", "other.safetensors", "absent.safetensors"):
        assert not DiffusersLora().recognises(tmp_path / name)
