"""The backbone on its tiny random model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_opensora import CPU, OPTIONS, SMALL, bare, make
from vader_opensora.options import OpenSoraOptions
from vader_opensora.sampler import RFlow

from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.lora.adapter import LoraSettings, attach_lora
from vader_core.method.gradient import NO_GRADIENT, Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry

PROMPTS = [Prompt("a red boat"), Prompt("two dogs run over a field of snow")]


def conditioned(backbone, prompts, geometry=SMALL, **given):
    rng = Randomness(1, samples=tuple(range(len(prompts))))
    return backbone.condition(backbone.encode_text(prompts), prompts, geometry, rng, **given)


def rolled_out(backbone, prompts, *, drawn=NO_GRADIENT, steps=3, geometry=SMALL, **given):
    rng = Randomness(1, samples=tuple(range(len(prompts))))
    conditioning = conditioned(backbone, prompts, geometry, **given)
    model = Model(backbone, RFlow(), Guidance(7.0), steps)
    return model.rollout(conditioning, geometry, rng, drawn).latents


# -- sizes -----------------------------------------------------------------------------------------------


def test_defaults_are_the_published_run():
    backbone = bare()
    defaults = backbone.defaults
    assert defaults.geometry == Geometry(276, 368, 51, 24.0)
    assert (defaults.num_steps, defaults.guidance_scale, defaults.sampler) == (30, 7.0, "rflow")
    assert backbone.latent_shape(defaults.geometry) == (4, 15, 34, 46)
    sampler = load_registry().get("sampler", defaults.sampler)
    made = sampler.make(dict(defaults.sampler_options), device="cpu", dtype=torch.float32)
    plan = made.plan(backbone.schedule, defaults.num_steps, defaults.geometry)
    # The shift makes the last step the longest: why one differentiated step is enough here.
    assert max(plan.tables["size"]) == plan.tables["size"][-1] > 5 * plan.tables["size"][0]


@pytest.mark.parametrize(
    ("options", "request_", "size"),
    [
        ({}, GeometryRequest(num_frames="4s"), (276, 368, 102)),
        ({}, GeometryRequest(num_frames="17"), (276, 368, 17)),
        ({"resolution": "360p", "aspect_ratio": "9:16"}, GeometryRequest(), (360, 640, 51)),
        ({"resolution": "720p", "aspect_ratio": "1:1"}, GeometryRequest(num_frames=1), (960, 960, 1)),
        ({"resolution": "240p"}, GeometryRequest(height=276), (276, 368, 51)),
        ({}, GeometryRequest(height=240, width=426), (240, 426, 51)),
    ],
)
def test_geometry_forms(options, request_, size):
    geometry = bare(**options).resolve_geometry(request_)
    assert (geometry.height, geometry.width, geometry.num_frames) == size


@pytest.mark.parametrize(
    ("options", "request_", "said"),
    [
        ({}, GeometryRequest(num_frames=9), r"use 1, or 17 and more \(2s = 51"),
        ({}, GeometryRequest(num_frames="3s"), "2s = 51, 4s = 102"),
        ({}, GeometryRequest(height=8), "use 16 or more"),
        ({"resolution": "241p"}, GeometryRequest(), "did you mean '240p'"),
        ({"aspect_ratio": "16:10"}, GeometryRequest(), "use 3:8, 9:21"),
        ({"resolution": "512", "aspect_ratio": "1:1"}, GeometryRequest(), "use 12:25"),
        ({"resolution": "360p"}, GeometryRequest(height=240), "which is 416 x 554"),
        ({"conditioning_dtype": "float16"}, GeometryRequest(), "float32 or bfloat16"),
    ],
)
def test_geometry_errors(options, request_, said):
    with pytest.raises(VaderError, match=said):
        bare(**options).resolve_geometry(request_)


def test_half_precision_conditioning_where_it_fits():
    small = Geometry(192, 192, 17, 24.0)
    bare(conditioning_dtype="float16").validate(small)
    plan = RFlow(conditioning_dtype=torch.float16).plan(bare().schedule, 4, small)
    assert plan.timesteps[0] == pytest.approx(1000, abs=0.1)


def test_told_numbers_follow_the_conditioning_dtype():
    rounded = make(conditioning_dtype="bfloat16")
    geometry = Geometry(480, 854, 17, 24.0)
    assert conditioned(rounded, PROMPTS[:1], geometry).shared["size"] == (480.0, 856.0)
    assert rounded.defaults.sampler_options == {"conditioning_dtype": "bfloat16"}


def test_a_picture_is_told_as_120_frames_a_second(backbone):
    picture = replace(SMALL, num_frames=1)
    assert conditioned(backbone, PROMPTS[:1], picture).tensors["fps"].tolist() == [120.0]
    assert backbone.decode(rolled_out(backbone, PROMPTS, geometry=picture), picture).shape == (
        2,
        1,
        3,
        32,
        48,
    )


def test_unknown_architectures_are_refused():
    for given in ("huge", {"denoiser": {"depht": 2}}, {"denoiser": {"hidden_size": 50}}):
        with pytest.raises(ValueError, match="architecture"):
            OpenSoraOptions(architecture=given)


# -- text ------------------------------------------------------------------------------------------------


def test_text_is_cleaned_scored_and_kept_without_padding(backbone):
    text = backbone.encode_text([Prompt("A  CAT"), Prompt("a cat aesthetic score: 6.5.")])
    assert torch.equal(text.positive["embeddings"][0], text.positive["embeddings"][1])
    # Five words and the end of the text.
    assert text.positive["mask"].tolist() == [[True] * 6] * 2


def test_the_null_text_has_the_prompts_mask(backbone):
    conditioning = conditioned(backbone, PROMPTS)
    assert conditioning.shared["text_length"] is None
    assert torch.equal(conditioning.tensors["mask"], conditioning.unconditional["mask"])
    null = backbone.denoiser.y_embedder.y_embedding[: conditioning.tensors["mask"].shape[1]]
    assert torch.equal(conditioning.unconditional["text"][1], null)
    assert conditioned(backbone, PROMPTS[:1]).shared["text_length"] == 7


def test_a_negative_prompt_has_its_own_text_and_mask(backbone):
    one = [replace(PROMPTS[0], negative="blurry")]
    negative = conditioned(backbone, one).unconditional
    # "blurry", the end, and the padding up to the prompt's length.
    assert negative["mask"][0].sum() == 2
    assert not torch.equal(negative["text"], conditioned(backbone, PROMPTS[:1]).unconditional["text"])


def test_encoded_text_is_kept_on_disk(tmp_path, monkeypatch):
    first = make(text_cache=tmp_path)
    text = first.encode_text(PROMPTS)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2

    second = make(text_cache=tmp_path)
    second.release_text_encoder()
    monkeypatch.setattr(second, "encode_texts", lambda texts: pytest.fail(f"{texts} were encoded again"))
    again = second.encode_text(PROMPTS)
    assert all(torch.equal(again.positive[name], value) for name, value in text.positive.items())
    other = make(text_cache=tmp_path, text_encoder_dtype="bfloat16")
    assert other.text_cache.get(other.prepared(PROMPTS[0].text)) is None


# -- frames that are given -------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (96, 96), (250, 10, 30)).save(path)
    return path


def test_the_first_frame_is_kept(backbone, picture):
    prompts = [replace(PROMPTS[0], image=picture), PROMPTS[1]]
    free = rolled_out(backbone, PROMPTS)
    held = rolled_out(backbone, prompts)
    reference = conditioned(backbone, prompts).tensors["reference"]
    assert torch.equal(held[0, :, 0], reference[0, :, 0])
    assert not torch.allclose(held[0, :, 1:], free[0, :, 1:])
    # The other sample has no picture and goes its way as before.
    assert torch.allclose(held[1], free[1], atol=1e-5)


def test_a_prompt_line_can_name_picture_and_masks(backbone, picture):
    asked = json.dumps({"reference_path": str(picture), "mask_strategy": "0;0,0,0,-1,1,0.5"})
    line = [Prompt(f"a red boat{asked}")]
    conditioning = conditioned(backbone, line, replace(SMALL, num_frames=34))
    # The target is aligned to whole chunks of five latent frames.
    assert conditioning.tensors["frame_mask"].tolist() == [[0, 1, 1, 1, 1, 0.5, 1, 1, 1, 1]]
    assert conditioning.shared["edited"]
    latents = rolled_out(backbone, line, geometry=replace(SMALL, num_frames=34))
    reference = conditioning.tensors["reference"]
    assert torch.equal(latents[:, :, 0], reference[:, :, 0])
    assert not torch.allclose(latents[:, :, 5], reference[:, :, 5])
    with pytest.raises(VaderError, match="needs an image"):
        conditioned(backbone, [Prompt("a boat", metadata={"mask_strategy": "0"})])


def test_a_reference_video_is_read(backbone, tmp_path):
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for level in range(0, 170, 10):
            frame = av.VideoFrame.from_image(Image.new("RGB", (96, 64), (level,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    metadata = {"reference_path": str(path), "mask_strategy": "0,0,0,0,5"}
    conditioning = conditioned(backbone, [Prompt("a boat", metadata=metadata)])
    assert conditioning.tensors["frame_mask"].tolist() == [[0.0] * 5]


def test_the_gradient_runs_through_a_given_frame(backbone):
    image = torch.full((1, 3, SMALL.height, SMALL.width), 0.5, requires_grad=True)
    latents = rolled_out(backbone, PROMPTS[:1], drawn=Drawn(frozenset({2})), image=image)
    latents[:, :, 0].sum().backward()
    assert image.grad.abs().max() > 0


# -- decoding --------------------------------------------------------------------------------------------


def test_chosen_frames_are_the_full_decodes(backbone):
    long = replace(SMALL, num_frames=40)
    latents = torch.randn(2, *backbone.latent_shape(long), generator=torch.Generator().manual_seed(0))
    whole = backbone.decode(latents, long)
    assert whole.shape == (2, 40, 3, 32, 48)
    for frames in ([39], [16, 17], [34, 0, 20]):
        assert torch.allclose(backbone.decode(latents, long, frames), whole[:, frames], atol=1e-5)


def held_for_backward(backbone, num_frames: int) -> int:
    """Bytes that the decode of one frame keeps for its backward pass."""
    geometry = replace(SMALL, num_frames=num_frames)
    latents = torch.randn(1, *backbone.latent_shape(geometry), requires_grad=True)
    held: dict[int, int] = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone.decode(latents, geometry, [8])
    return sum(held.values())


def test_checkpointed_decoding_gives_the_same_gradient(backbone):
    long = replace(SMALL, num_frames=34)
    latents = torch.randn(1, *backbone.latent_shape(long), generator=torch.Generator().manual_seed(0))
    gradients = []
    for recompute in (False, True):
        given = latents.clone().requires_grad_()
        with backbone.checkpointing(recompute):
            backbone.decode(given, long).pow(2).sum().backward()
        gradients.append(given.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-3)


def test_the_memory_of_one_frame_does_not_grow_with_the_clip(backbone):
    assert held_for_backward(backbone, 204) <= 1.02 * held_for_backward(backbone, 17)


def test_recomputed_blocks_keep_less(backbone):
    plain = held_for_backward(backbone, 17)
    with backbone.checkpointing(True):
        assert held_for_backward(backbone, 17) < 0.5 * plain


def test_vader_single_latent():
    backbone = make(decoder="vader_single_latent")
    assert not backbone.decode_is_exact
    latents = torch.randn(2, *backbone.latent_shape(SMALL), generator=torch.Generator().manual_seed(0))
    exact = make().decode(latents, SMALL, [6, 16])
    cheap = backbone.decode(latents, SMALL, [6, 16])
    assert cheap.shape == exact.shape
    assert not torch.allclose(cheap, exact, atol=1e-2)
    # Frame 6 lies in latent frame 2: three zero frames stand before the clip.
    alone = backbone.autoencoder.decode(latents[:, :, 2:3], 1)
    assert torch.allclose(cheap[:, 0], (alone[:, :, 0] + 1) / 2, atol=1e-5)
    # A whole video is decoded as ever.
    assert torch.equal(backbone.decode(latents, SMALL), make().decode(latents, SMALL))


# -- precision and speed ---------------------------------------------------------------------------------


def test_bfloat16_does_not_round_the_timestep():
    backbone = make(torch.bfloat16)
    conditioning = conditioned(backbone, PROMPTS[:1])
    latents = backbone.initial_noise(1, SMALL, Randomness(0))
    # bfloat16 holds neither 701 nor 702: both would be told as 700 or 704.
    times = (torch.tensor([time]) for time in (700.5, 701.5))
    told = [backbone.predict(latents, time, conditioning).value for time in times]
    assert not torch.equal(*told)
    assert backbone.denoiser.rope.freqs.dtype == torch.float32
    assert backbone.autoencoder.shift.dtype == torch.float32


def test_autocast_leaves_the_stream_narrow():
    backbone = make(torch.bfloat16)
    seen = []
    backbone.denoiser.temporal_blocks[0].register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0].dtype)
    )
    attach_lora(backbone.denoiser, LoraSettings(rank=2, targets=backbone.lora_targets))
    with torch.autocast("cpu", torch.bfloat16):
        rolled_out(backbone, PROMPTS[:1], steps=1)
    assert seen == [torch.bfloat16]


# -- weights ---------------------------------------------------------------------------------------------


def test_official_files_are_read(backbone, tmp_path):
    denoiser = {f"module.{name}": value for name, value in backbone.denoiser.state_dict().items()}
    save_file(denoiser, tmp_path / "model.safetensors")
    torch.save({"state_dict": backbone.autoencoder.state_dict()}, tmp_path / "vae.pt")
    given = {
        "weights": str(tmp_path),
        "vae_weights": str(tmp_path / "vae.pt"),
        "text_encoder_weights": "random",
    }
    again = make(**given)
    for ours, theirs in ((again.denoiser, backbone.denoiser), (again.autoencoder, backbone.autoencoder)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())

    del denoiser["module.rope.freqs"]
    save_file(denoiser, tmp_path / "model.safetensors")
    with pytest.raises(VaderError, match=r"1 missing.*rope\.freqs"):
        make(**given)
    with pytest.raises(VaderError, match="no such file"):
        make(weights=str(tmp_path / "nothing.safetensors"))


def test_random_weights_leave_nothing_zero(backbone):
    for module in backbone.modules().values():
        assert all(value.abs().max() > 0 for value in module.state_dict().values())
    again = make().denoiser.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in backbone.denoiser.state_dict().items())


def test_the_plugin_announces_its_parts():
    registry = load_registry()
    component = registry.get("backbone", "opensora")
    assert {file.repository for file in component.weights} == {
        "hpcai-tech/OpenSora-STDiT-v3",
        "hpcai-tech/OpenSora-VAE-v1.2",
        "DeepFloyd/t5-v1_1-xxl",
    }
    made = component.make(dict(OPTIONS), device=CPU, dtype=torch.float32)
    assert made.name == "opensora"
    assert registry.lora_formats["opensora"].resolve().name == "opensora"
