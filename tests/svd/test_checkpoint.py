"""Weights in diffusers' layout: what diffusers writes is read, and what does not fit is named."""

from __future__ import annotations

import json

import pytest
import torch
from vader_svd.architecture import NAMED, resolve_architecture
from vader_svd.checkpoint import PRETRAINED, locate_files, wanted_files

from vader_core import VaderError
from vader_core.weights import parse_weights

TINY = NAMED["tiny"].model_dump()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_backbone):
    """What `save_pretrained` writes, in both precisions."""
    root = tmp_path_factory.mktemp("weights")
    backbone = make_backbone(seed=11)
    parts = {"unet": backbone.denoiser, "vae": backbone.autoencoder, "image_encoder": backbone.image_encoder}
    for name, module in parts.items():
        module.save_pretrained(root / name)
        stem = "model" if name == "image_encoder" else "diffusion_pytorch_model"
        written = next((root / name).glob("*.safetensors"))
        assert written.name == f"{stem}.safetensors"
        from safetensors.torch import load_file, save_file

        half = {key: value.half() for key, value in load_file(written).items()}
        if name == "image_encoder":  # as older transformers stored it
            half["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
        save_file(half, root / name / f"{stem}.fp16.safetensors", {"format": "pt"})
    (root / "scheduler").mkdir()
    scheduler = {"_class_name": "EulerDiscreteScheduler", "sigma_min": 0.002, "sigma_max": 700.0}
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return root


def states(backbone):
    return {
        f"{role}.{name}": value
        for role, module in backbone.modules().items()
        for name, value in module.state_dict().items()
    }


def test_what_diffusers_writes_is_read(folder, make_backbone):
    written, other = states(make_backbone(seed=11)), states(make_backbone(seed=12))
    read = states(make_backbone(weights=str(folder)))
    assert read.keys() == written.keys()
    assert all(torch.equal(read[name], written[name]) for name in written)
    assert not torch.equal(other["denoiser.conv_in.weight"], written["denoiser.conv_in.weight"])


def test_a_weights_folder_decides_the_architecture(folder, make_backbone):
    backbone = make_backbone(load=False, weights=str(folder), architecture=None)
    assert backbone.defaults.geometry.num_frames == 4
    assert make_backbone(load=False, architecture=None).defaults.geometry.num_frames == 14


def test_half_precision_files_are_read_when_asked(folder, make_backbone):
    written = states(make_backbone(seed=11))
    read = states(make_backbone(weights=str(folder), variant="fp16", architecture=str(folder)))
    assert all(torch.equal(read[name], written[name].half().float()) for name in written)


def test_a_folder_gives_its_own_architecture(folder):
    found = resolve_architecture(str(folder))
    assert found.unet["block_out_channels"] == NAMED["tiny"].unet["block_out_channels"]
    assert found.image_encoder["hidden_size"] == 32
    assert found.sigmas == (0.002, 700.0)


def test_weights_of_another_architecture_are_refused(folder, make_backbone):
    with pytest.raises(VaderError, match=r"the weights' unet has .*num_frames=4 instead of 14"):
        make_backbone(weights=str(folder), architecture="full")


def test_tensors_that_do_not_fit_are_named(folder, make_backbone, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    root = tmp_path / "broken"
    shutil.copytree(folder, root)
    path = root / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("conv_in.bias")
    save_file(tensors, path)
    with pytest.raises(VaderError, match=r"unet: 1 missing.*conv_in\.bias"):
        make_backbone(weights=str(root))


def test_what_is_not_there_is_named(folder, make_backbone, tmp_path):
    with pytest.raises(VaderError, match=r"lacks unet/config\.json.*fp16 reads half"):
        make_backbone(weights=str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(VaderError, match="is not a folder"):
        make_backbone(weights=str(tmp_path / "file"))
    with pytest.raises(VaderError, match="no such file or folder"):
        make_backbone(load=False, weights=str(tmp_path / "absent"))


def test_the_tiny_architecture_was_never_published(make_backbone):
    with pytest.raises(VaderError, match="no weights were published for architecture 'tiny'"):
        make_backbone(weights="pretrained")


def test_a_single_file_of_the_hub_is_refused():
    source = parse_weights("hub:stabilityai/stable-video-diffusion-img2vid/svd.safetensors")
    with pytest.raises(VaderError, match="use hub:stabilityai/stable-video-diffusion-img2vid"):
        locate_files(source, "full", None)


def test_only_the_files_that_are_read_are_wanted():
    files = wanted_files(PRETRAINED["xt"], None, "fp16")
    assert len(files) == 6
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in files
    assert all(file.gated and file.repository.endswith("img2vid-xt") for file in files.values())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"unet": {}}', "vae: Field required"),
        ("[", "not readable JSON"),
        (json.dumps({"unet": {}, "vae": {}, "image_encoder": {}}), "block_out_channels is no list"),
        (json.dumps({**TINY, "unet": {**TINY["unet"], "channels": 3}}), "unet.*channels"),
        (
            json.dumps({**NAMED["tiny"].model_dump(), "scheduler": {"prediction_type": "epsilon"}}),
            "prediction_type='epsilon' is not supported",
        ),
    ],
)
def test_an_architecture_file_with_a_mistake_is_refused(tmp_path, make_backbone, content, words):
    path = tmp_path / "architecture.json"
    path.write_text(content)
    with pytest.raises(VaderError, match=words):
        make_backbone(load=False, architecture=str(path)).build_denoiser()


def test_networks_that_cannot_be_are_refused(make_backbone, tmp_path):
    parts = NAMED["tiny"].model_dump()
    parts["image_encoder"]["num_attention_heads"] = 5
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(parts))
    with pytest.raises(VaderError, match=r"image_encoder: [\s\S]*(number of attention heads|num_heads)"):
        make_backbone(architecture=str(path))


def test_an_unknown_architecture_lists_the_known(make_backbone):
    with pytest.raises(VaderError, match="'huge' is not known: use full, xt, tiny"):
        make_backbone(load=False, architecture="huge")


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("vae", None, "block_out_channels is no list"),  # an empty config.json
        ("vae", {"block_out_channels": 3}, "block_out_channels is no list"),
        ("vae", {"latent_channels": "4"}, "latent_channels is '4'"),
        ("unet", {"num_frames": None}, "num_frames is None"),
        ("unet", {"down_block_types": ["NoSuchBlock"]}, "no network can be built"),
        ("unet", {"block_out_channels": [[1]]}, "no network can be built"),
        ("image_encoder", {"image_size": "big"}, "image_size is no whole number"),
    ],
)
def test_a_folder_with_an_odd_config_is_refused_in_one_message(
    folder, make_backbone, tmp_path, part, change, said
):
    import json
    import shutil

    other = shutil.copytree(folder, tmp_path / "other")
    place = other / part / "config.json"
    place.write_text(json.dumps({} if change is None else {**json.loads(place.read_text()), **change}))
    with pytest.raises(VaderError, match=said):
        make_backbone(weights=str(other), architecture=None)


def test_a_pointer_in_place_of_a_folder_is_said_to_be_one(make_backbone, tmp_path):
    pointer = tmp_path / "svd.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(VaderError, match="git-lfs pointer"):
        make_backbone(weights=str(pointer))
