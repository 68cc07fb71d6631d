"""Sizes, weights and what the model is told."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_easyanimate import bare, make
from vader_easyanimate.architecture import TransformerConfig, resolve_architecture
from vader_easyanimate.official_config import autoencoder_config, transformer_config

from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness


def test_defaults_of_the_released_sizes():
    small, large = bare(weights="random"), bare(weights="random", architecture="768")
    assert small.defaults.geometry == Geometry(384, 672, 45, 24.0)
    assert large.defaults.geometry == Geometry(576, 1008, 45, 24.0)
    assert small.defaults.sample_frames == 144
    assert small.latent_shape(Geometry(384, 672, 144, 24.0)) == (4, 48, 48, 84)
    assert (small._size, large._size) == ("512", "768")


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        (Geometry(100, 96, 9, 24.0), "height=100 is not allowed: use a multiple of 16 from 64 on, e.g. 96"),
        (Geometry(96, 48, 9, 24.0), "width=48 is not allowed"),
        (Geometry(96, 96, 10, 24.0), "num_frames=10 is not allowed: use 1 or a multiple of 9, e.g. 9 or 18"),
        (Geometry(96, 96, 9 * 22, 24.0), "the model knows 64 latent frames"),
        (Geometry(96, 96, 9, 0.0), "fps=0 is not allowed"),
    ],
)
def test_geometries_that_cannot_be_made(geometry, said):
    with pytest.raises(VaderError, match=said):
        bare(weights="random", architecture="tiny").validate(geometry)


def test_grid_needs_whole_squares():
    grid = bare(weights="random", architecture={"denoiser": {"motion": {"block_size": 2}}})
    with pytest.raises(VaderError, match="use a multiple of 32"):
        grid.validate(Geometry(80, 96, 9, 24.0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("huge", "unknown architecture 'huge'"),
        ({"unet": {}}, "unknown architecture key 'unet'"),
        ({"denoiser": {"depth": 2}}, r"unknown architecture\.denoiser key 'depth'"),
        ({"denoiser": {"attention_head_dim": 9}}, "must be a multiple of"),
        ({"denoiser": {"motion": {"num_attention_heads": 7}}}, "must be a multiple of motion"),
        ({"vae": {"ch_mult": [1, 2]}}, "must have the same length"),
    ],
)
def test_architectures_that_do_not_exist(given, said):
    with pytest.raises(VaderError, match=said):
        resolve_architecture(given)


def test_skips():
    assert TransformerConfig().skips == 13
    assert TransformerConfig(num_layers=4).skips == 1
    assert TransformerConfig(enable_uvit=False).skips == 0
    model = make().denoiser
    latents, text = torch.ones(1, 4, 3, 8, 8), torch.ones(1, 2, 24)
    before = model(latents, torch.tensor([3.0]), text)
    model.long_connect_fc[0].weight.mul_(2)
    assert not torch.allclose(model(latents, torch.tensor([3.0]), text), before)


def test_size_conditions():
    sizes = {
        "denoiser": {"num_attention_heads": 6, "attention_head_dim": 16, "num_layers": 2, "sample_size": 128}
    }
    backbone = make(architecture={**sizes, "vae": {"ch": 8, "norm_num_groups": 4}, "text_tokens": 5})
    prompts = [Prompt("a cat"), Prompt("a dog")]
    text = backbone.encode_text(prompts)
    first, second = (
        backbone.condition(text, prompts, Geometry(*size, 9, 24.0), Randomness(1, samples=(0, 1)))
        for size in ((64, 96), (96, 64))
    )
    assert first.tensors["resolution"].tolist() == [[64.0, 96.0]] * 2
    assert first.tensors["aspect_ratio"].tolist() == [[pytest.approx(2 / 3)]] * 2
    latents, time = torch.ones(2, 4, 3, 8, 8), torch.tensor([3.0, 3.0])
    out = [
        backbone.denoiser(latents, time, text.positive["embeddings"], **_told(one)) for one in (first, second)
    ]
    assert not torch.allclose(*out)
    with pytest.raises(VaderError, match="needs resolution and aspect_ratio"):
        backbone.denoiser(latents, time, text.positive["embeddings"])


def _told(conditioning):
    return {name: conditioning.tensors[name] for name in ("resolution", "aspect_ratio")}


def test_position_tables_are_one_tensor_under_56_names():
    backbone = make()
    names = [name for name in backbone.denoiser.state_dict() if name.endswith(".pe")]
    tables = {backbone.denoiser.state_dict()[name].data_ptr() for name in names}
    assert len(names) == 2 * backbone.architecture.denoiser.num_layers
    assert len(tables) == 1


# -- weight files ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A model folder as the official trainer writes it."""
    backbone = make()
    sizes = backbone.architecture
    configs = {
        "transformer": {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 4,
            "sample_size": 16,
            "caption_channels": 24,
            "in_channels": 4,
            "out_channels": 8,
            "norm_type": "ada_norm_single",
            "motion_module_kwargs": {"num_attention_heads": 4, "temporal_position_encoding_max_len": 64},
        },
        "vae": {"ch": 8, "ch_mult": [1, 2, 2, 4], "norm_num_groups": 4, "scaling_factor": 0.1825},
    }
    for part, module in (("transformer", backbone.denoiser), ("vae", backbone.autoencoder)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(configs[part]))
        tensors = {name: value.clone() for name, value in module.state_dict().items()}
        save_file(tensors, tmp_path / part / "diffusion_pytorch_model.safetensors")
    assert sizes == bare(weights="random", architecture=str(tmp_path)).architecture.__class__(
        sizes.denoiser, sizes.vae, sizes.text_tokens
    )
    return tmp_path


def weights(backbone):
    return {**backbone.denoiser.state_dict(), **backbone.autoencoder.state_dict()}


def test_a_model_folder(folder):
    backbone = make(weights=str(folder), architecture=None, text_encoder_weights="random")
    assert backbone.architecture.denoiser == resolve_architecture("tiny").denoiser
    wanted = weights(make())
    assert all(torch.equal(value, wanted[name]) for name, value in weights(backbone).items())


def test_a_denoiser_alone_beside_another_autoencoder(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    backbone = make(weights=str(file), vae_weights=str(folder), text_encoder_weights="random")
    wanted = weights(make())
    assert all(torch.equal(value, wanted[name]) for name, value in weights(backbone).items())
    assert bare(weights=str(file), architecture="tiny")._part(None, "vae") == "pretrained"


def test_wrappers_are_taken_off(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in load_file(file).items()}}, folder / "t.pt"
    )
    backbone = make(weights=str(folder / "t.pt"), vae_weights=str(folder), text_encoder_weights="random")
    assert torch.equal(backbone.denoiser.proj_out.weight, make().denoiser.proj_out.weight)


def test_wrong_keys_raise(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["transformer_blocks.0.norm3.weight"] = tensors.pop("proj_out.bias")
    save_file(tensors, file)
    with pytest.raises(VaderError, match=r"1 missing, 1 unexpected, 0 of another shape.*proj_out\.bias"):
        make(weights=str(folder), architecture=None, text_encoder_weights="random")


def test_a_missing_part_is_named(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(VaderError, match=r"holds neither vae/diffusion_pytorch_model\.safetensors"):
        make(weights=str(folder), architecture=None, text_encoder_weights="random")


@pytest.mark.parametrize(
    ("read", "config", "said"),
    [
        (transformer_config, {"motion_module_type": "Other"}, "Vanilla .V2. and VanillaGrid"),
        (transformer_config, {"norm_type": "layer_norm"}, "norm_type='layer_norm' is not supported"),
        (transformer_config, {"cross_attention_dim": 7}, "cross_attention_dim=7"),
        (
            transformer_config,
            {"motion_module_kwargs": {"attention_block_types": ["Temporal_Self", "Global_Self"]}},
            "only Temporal_Self is",
        ),
        (
            autoencoder_config,
            {"down_block_types": ["Other"], "up_block_types": ["Other"]},
            "is not supported",
        ),
        (autoencoder_config, {"mid_block_attention_type": "spatial"}, "only '3d' is"),
    ],
)
def test_other_versions_are_refused(read, config, said):
    with pytest.raises(VaderError, match=said):
        read(config)


def test_tables_that_differ_stay_apart(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".pe"))
    tensors[name] = tensors[name] + 1.0
    save_file(tensors, file)
    read = make(weights=str(folder), architecture=None, text_encoder_weights="random").denoiser.state_dict()
    assert all(torch.equal(read[key], value) for key, value in tensors.items())
