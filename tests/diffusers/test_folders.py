"""What is known before a weight is read, and what a folder may be refused for."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from vader_diffusers.parts import bare
from vader_diffusers.pipeline_source import PipelineSource
from vader_diffusers.plugin import _BACKBONES
from vader_diffusers.published_models import published
from vader_diffusers.scheduling import read_scheduler
from vader_diffusers.unread import left_unread

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.parallel.rows import read_pieces
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.run.layers import read_recipe

_SPEC = importlib.util.spec_from_file_location(
    "tiny_pipelines", Path(__file__).with_name("tiny_pipelines.py")
)
tiny_pipelines = sys.modules.setdefault("tiny_pipelines", importlib.util.module_from_spec(_SPEC))
if not hasattr(tiny_pipelines, "build"):
    _SPEC.loader.exec_module(tiny_pipelines)

REGISTRY = load_registry()
PUBLISHED = [
    (backbone, name)
    for backbone in _BACKBONES
    for name, model in published(backbone).items()
    if model.repository
]


def make(backbone: str, **options):
    return REGISTRY.get("backbone", backbone).make(options, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.build("wan", "tiny", tmp_path_factory.mktemp("wan"))


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.slow_cases("ltx2-*", "*-a14b")
@pytest.mark.parametrize(("backbone", "name"), PUBLISHED, ids=lambda value: value)
def test_published_models_need_no_network(backbone, name):
    """Defaults, geometry, schedule and size, from the JSON that ships; the size is the published one."""
    made = make(backbone, weights="pretrained", model=name)
    geometry = made.resolve_geometry(GeometryRequest())
    assert geometry == made.defaults.geometry
    channels, frames, height, width = made.latent_shape(geometry)
    assert channels * frames * height * width > 100_000
    assert made.schedule_for(geometry).prediction_type in ("velocity", "v")
    sampler = REGISTRY.get("sampler", made.defaults.sampler).make(
        dict(made.defaults.sampler_options), device="cpu", dtype=None
    )
    assert sampler.plan(made.schedule_for(geometry), made.defaults.num_steps, geometry).num_steps
    with torch.device("meta"):
        count = sum(value.numel() for value in made.build_denoiser().parameters())
    assert count / 1e9 == pytest.approx(published(backbone)[name].size, rel=0.04)


@pytest.mark.parametrize(("frames", "nearest"), [(80, 81), (82, 81), (83, 81), (84, 85), (2, 1)])
def test_frames_that_wan_cannot_make_name_the_nearest(frames, nearest):
    with pytest.raises(VaderError, match=rf"{frames} frames are not 4 k \+ 1 \(nearest {nearest}\)"):
        make("wan").resolve_geometry(GeometryRequest(num_frames=frames))


def test_cogvideox_wants_an_odd_number_of_latent_frames():
    with pytest.raises(VaderError, match=r"53 frames are not 8 k \+ 1 \(nearest 49 and 57\)"):
        make("cogvideox").resolve_geometry(GeometryRequest(num_frames=53))


def test_a_side_between_two_multiples_names_the_nearest():
    with pytest.raises(VaderError, match=r"height 490 is no multiple of 16 .nearest 496."):
        make("wan").resolve_geometry(GeometryRequest(height=490))


def test_ltx_shifts_with_the_number_of_tokens():
    """exp(mu), mu on the line through (1024, 0.95) and (4096, 2.05)."""
    made = make("ltx")
    small, large = Geometry(512, 704, 65, 25), Geometry(512, 704, 161, 25)
    for geometry, tokens in ((small, 9 * 16 * 22), (large, 21 * 16 * 22)):
        mu = 0.95 + (tokens - 1024) * 1.1 / 3072
        assert made.schedule_for(geometry).shift == pytest.approx(math.exp(mu), rel=1e-12)
    assert made.schedule == made.schedule_for(made.defaults.geometry)


def test_a_folder_of_another_family_is_named(folder):
    with pytest.raises(VaderError, match="is a WanPipeline; this backbone takes LTXPipeline"):
        make("ltx", weights=str(folder))


def test_a_text_to_video_folder_is_not_picture_to_video(folder):
    with pytest.raises(VaderError, match="text alone: use --backbone wan"):
        make("wan_i2v", weights=str(folder))


TINY = [(backbone, name) for backbone in _BACKBONES for name in published(backbone) if "tiny" in name]


@pytest.mark.parametrize(
    ("backbone", "name", "dtype"),
    [*((*one, torch.bfloat16) for one in TINY), ("wan", "tiny", torch.float64)],
    ids=str,
)
def test_a_network_that_is_cut_before_it_is_read_is_the_one_that_is_read_whole(
    backbone, name, dtype, tmp_path
):
    """In one file and in several; parts that diffusers keeps in float32, and buffers, too."""
    source = PipelineSource(str(tmp_path), None, published(backbone)[name].folder, None)
    names = tuple(part for part in source.folder if part.startswith("transformer"))
    for number, part in enumerate(names):
        network = tiny_pipelines.randomise(bare(source, part, needed_for="a test"), number)
        network.save_pretrained(tmp_path / part, max_shard_size="20KB" if number == 0 else "1GB")
    assert (tmp_path / names[0]).joinpath("diffusion_pytorch_model.safetensors.index.json").is_file()
    unread, found = left_unread(source, names, dtype=dtype, needed_for="a test")
    assert tuple(found) == names
    for part, network in found.items():
        whole = type(network).from_pretrained(tmp_path, subfolder=part, dtype=dtype)
        whole = nn.Module.to(whole, torch.float64 if dtype == torch.float64 else None)
        stand_ins = dict(network.named_parameters())
        assert all(value.untyped_storage().nbytes() <= 8 for value in stand_ins.values())
        unread.on_meta(network)
        read_pieces(unread, torch.device("cpu"))
        expected = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
        seen = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        assert seen.keys() == expected.keys()
        for key, value in expected.items():
            assert seen[key].dtype == value.dtype, key
            assert torch.equal(seen[key], value), key


def test_what_a_file_lacks_is_said_where_it_is_read_whole(copied):
    tensors = load_file(copied / "transformer" / "diffusion_pytorch_model.safetensors")
    source = make("wan", weights=str(copied)).source
    told = {"dtype": torch.float32, "needed_for": "a test"}
    assert left_unread(source, ("transformer",), **told)[0] is not None
    for change in ({"patch_embedding.bias": torch.zeros(3)}, {"one_more": torch.zeros(3)}):
        save_file(tensors | change, copied / "transformer" / "diffusion_pytorch_model.safetensors")
        assert left_unread(source, ("transformer",), **told) == (None, {})


def test_half_a_download_is_named(copied):
    shutil.rmtree(copied / "vae")
    with pytest.raises(VaderError, match=r"half a download: .* names 'vae'"):
        make("wan", weights=str(copied))


def test_missing_weights_are_named_before_anything_is_read(copied):
    for file in (copied / "transformer").glob("*.safetensors"):
        file.unlink()
    made = make("wan", weights=str(copied))
    with pytest.raises(VaderError, match="no weights in 'transformer'"):
        made.load()


def test_a_missing_shard_is_named(copied):
    listing = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (copied / "transformer" / "one.safetensors").write_bytes(b"")
    (copied / "transformer" / "m.safetensors.index.json").write_text(json.dumps(listing))
    with pytest.raises(VaderError, match="1 of 2 weight files of 'transformer' are missing, first two"):
        make("wan", weights=str(copied)).load()


def test_a_single_file_says_how_to_convert_it(tmp_path):
    path = tmp_path / "wan.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    for where in (path, tmp_path):
        with pytest.raises(VaderError, match=r"single-file checkpoint.*from_single_file"):
            make("wan", weights=str(where))


def test_a_pointer_in_place_of_a_folder_is_said_to_be_one(tmp_path):
    pointer = tmp_path / "wan.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(VaderError, match="git-lfs pointer"):
        make("wan", weights=str(pointer))


def test_no_pipeline_at_all(tmp_path):
    with pytest.raises(VaderError, match=r"has no model_index.json"):
        make("wan", weights=str(tmp_path))


def test_an_unknown_model_lists_those_that_are_known():
    with pytest.raises(VaderError, match=r"did you mean '2.1-14b'.*2.2-a14b"):
        make("wan", model="2.1-14B")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tiny"}, "made for tests and has no weights"),
        ({"architecture": "tiny"}, "belongs to --weights random"),
        ({"weights": "random", "model": "tiny", "architecture": "tiny"}, "leave one out"),
        ({"weights": "hub:Wan-AI/Wan2.1-T2V-1.3B-Diffusers/x.safetensors"}, "whole repositories"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(VaderError, match=message):
        make("wan", **options)


def test_a_scheduler_that_no_sampler_follows(copied):
    place = copied / "scheduler" / "scheduler_config.json"
    place.write_text(json.dumps({"_class_name": "DPMSolverSDEScheduler"}))
    with pytest.raises(VaderError, match="DPMSolverSDEScheduler is not one that a sampler here follows"):
        make("wan", weights=str(copied))
    config = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "solver_order": 3}
    config["prediction_type"] = "flow_prediction"
    with pytest.raises(VaderError, match="solver_order=3; only 2, 1"):
        read_scheduler(config, own_times=True, needed_for="x")


def test_alphas_are_diffusers_own():
    from diffusers import CogVideoXDDIMScheduler

    config = dict(published("cogvideox")["2b"].folder["scheduler"])
    ours = read_scheduler(config, own_times=False, needed_for="x").schedule.alphas_cumprod
    theirs = CogVideoXDDIMScheduler.from_config(config).alphas_cumprod
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-12, atol=1e-15)


def test_random_text_follows_the_words():
    made = make("wan", weights="random", model="tiny")
    one, two, again = (made.encode_texts([text])["text"] for text in ("a boat", "a red boat", "a boat"))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert not one[0, 3:].any()
    assert one[0, :3].any()


def test_the_experts_scales():
    """The published pair goes together; a scale of the user's own is both experts'; the option wins."""
    made = make("wan", weights="pretrained", model="2.2-a14b")
    assert (made.low_scale(4.0), made.low_scale(6.0)) == (3.0, None)
    assert make("wan", model="2.2-a14b", guidance_scale_low=1.5).low_scale(6.0) == 1.5


def test_hunyuan_video_is_told_its_guidance():
    assert make("hunyuan_video").defaults.guidance == "embedded"
    other = make("hunyuan_video", embedded_guidance=6.0).defaults
    assert (other.guidance, other.guidance_scale) == ("classifier_free", 1.0)


@pytest.mark.parametrize("name", ["wan_1_3b_hps", "wan_14b_hps", "ltx_2b_hps", "cogvideox_2b_hps"])
def test_recipes_are_what_their_backbones_take(name):
    config = validated(read_recipe(REGISTRY, name))
    made = REGISTRY.get("backbone", config.backbone.name).make(
        config.backbone.options, device=torch.device("cpu"), dtype=torch.float32
    )
    video = config.video
    made.validate(Geometry(video.height, video.width, video.num_frames, video.fps))
    sampler = REGISTRY.get("sampler", config.sampler.name).make(
        config.sampler.options, device="cpu", dtype=None
    )
    known = made.defaults
    asked = REGISTRY.get("sampler", known.sampler).make(dict(known.sampler_options), device="cpu", dtype=None)
    assert sampler == asked


def test_a_gated_repository_says_what_to_do(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    class Shut(GatedRepoError):
        def __init__(self):
            Exception.__init__(self, "gated")

    def refuse(*_, **__):
        raise Shut

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        VaderError, match=r"some/body is gated: accept its licence on the hub and set HF_TOKEN"
    ):
        make("wan", weights="hub:some/body")


def test_the_gradient_where_the_last_step_is_a_sliver(copied):
    """Euler's own times end at the smallest trained one; UniPC's do not."""
    assert make("wan", weights=str(copied)).defaults.gradient == "last"
    place = copied / "scheduler" / "scheduler_config.json"
    place.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}))
    assert make("wan", weights=str(copied)).defaults.gradient == "last:2"


def test_a_corrector_that_is_off_is_refused():
    config = dict(published("wan")["tiny"].folder["scheduler"], disable_corrector=[0])
    with pytest.raises(VaderError, match=r"disable_corrector=\[0\]; only \[\] can be followed"):
        read_scheduler(config, own_times=True, needed_for="x")


def test_attention_backends_have_a_backward_pass():
    with pytest.raises(VaderError, match="'sage' has no backward pass: use native"):
        make("wan", weights="random", model="tiny", attention_backend="sage").load()
    with pytest.raises(VaderError, match="attention backend 'nonsense'"):
        make("wan", weights="random", model="tiny", attention_backend="nonsense").load()
    found = []
    for name in (None, "_native_math"):
        made = make("wan", weights="random", model="tiny", attention_backend=name, max_sequence_length=4)
        made.load()
        latents = torch.ones(1, made.latent_channels, 1, 4, 4).requires_grad_(True)
        text = {"text": made.encode_texts(["a boat"])["text"]}
        conditioning = Conditioning(text, None, {})
        value = made.predict(latents, torch.tensor([500.0]), conditioning).value
        value.square().sum().backward()
        found.append((value.detach(), latents.grad))
    for one, other in zip(*found, strict=True):
        assert float(other.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
