"""One official file in, three modules out."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from tiny_videocrafter import make_backbone, official_tensors
from vader_videocrafter.architecture import TINY
from vader_videocrafter.checkpoint import split_checkpoint

from vader_core.errors import VaderError

WRAPPINGS = {
    "bare": lambda tensors: tensors,
    "state_dict": lambda tensors: {"state_dict": tensors, "global_step": 3},
    "deepspeed": lambda tensors: {
        "module": {f"_forward_module.{key}": value for key, value in tensors.items()}
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_loads_the_same_model(tmp_path, wrapping):
    tensors = official_tensors()
    torch.save(WRAPPINGS[wrapping](tensors), tmp_path / "model.ckpt")
    backbone = make_backbone(weights=str(tmp_path / "model.ckpt"))
    backbone.load()
    for name, value in backbone.denoiser.state_dict().items():
        assert torch.equal(value, tensors[f"model.diffusion_model.{name}"])
    query = backbone.autoencoder.state_dict()["decoder.mid_block.attentions.0.to_q.weight"]
    assert torch.equal(query, tensors["first_stage_model.decoder.mid.attn_1.q.weight"][:, :, 0, 0])
    text = {
        name.removeprefix("text_model."): value for name, value in backbone.text_encoder.state_dict().items()
    }
    fused = tensors["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"]
    for index, part in enumerate("qkv"):
        third = fused[index * TINY.text.width : (index + 1) * TINY.text.width]
        assert torch.equal(text[f"encoder.layers.0.self_attn.{part}_proj.weight"], third)


def test_a_folder_and_safetensors_load_too(tmp_path):
    tensors = official_tensors()
    save_file(tensors, tmp_path / "model.safetensors")
    backbone = make_backbone(weights=str(tmp_path))
    backbone.load()
    assert torch.equal(
        backbone.denoiser.state_dict()["out.2.bias"], tensors["model.diffusion_model.out.2.bias"]
    )


def test_a_folder_without_a_model_is_refused(tmp_path):
    backbone = make_backbone(weights=str(tmp_path))
    with pytest.raises(VaderError, match=r"neither model\.ckpt nor model\.safetensors"):
        backbone.load()


def test_every_key_is_accounted_for():
    tensors = official_tensors()
    gone = "model.diffusion_model.input_blocks.1.0.temopral_conv.conv2.3.weight"
    del tensors[gone]
    tensors["model.diffusion_model.extra.weight"] = torch.zeros(1)
    tensors["betas"] = torch.zeros(7)
    with pytest.raises(VaderError) as caught:
        split_checkpoint(tensors, TINY, what="the file")
    message = str(caught.value)
    assert "1 missing, 1 unexpected, 1 of another shape" in message
    assert gone in message
    assert "model.diffusion_model.extra.weight" in message
    assert "betas (7,) instead of (1000,)" in message


def test_an_entry_that_is_no_tensor_is_named():
    tensors = {**official_tensors(), "betas": 3.0}
    with pytest.raises(VaderError, match=r"betas float instead of \(1000,\)"):
        split_checkpoint(tensors, TINY, what="the file")


def test_the_full_model_is_not_read_as_the_tiny_one():
    with pytest.raises(VaderError, match="of another shape"):
        split_checkpoint(official_tensors(), make_backbone(architecture="full").architecture, what="the file")


@pytest.mark.parametrize("name", ["alphas_cumprod", "scale_arr"])
def test_another_noise_schedule_is_refused(name):
    tensors = official_tensors()
    tensors[name] = tensors[name] * 0.9
    with pytest.raises(VaderError, match=f"its {name} differs"):
        split_checkpoint(tensors, TINY, what="the file")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Surprise:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Surprise()}, tmp_path / "model.ckpt")
    backbone = make_backbone(weights=str(tmp_path / "model.ckpt"))
    with pytest.raises(VaderError, match=r"model\.ckpt"):
        backbone.load()


def test_a_path_that_does_not_exist_is_refused_before_loading():
    with pytest.raises(VaderError, match="no such file"):
        make_backbone(weights="does/not/exist.ckpt")
