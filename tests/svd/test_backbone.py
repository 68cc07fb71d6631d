"""The contract, the conditioning, decoding a few frames, and half precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from PIL import Image
from transformers import CLIPImageProcessor
from vader_svd.architecture import NAMED

from vader_core import Geometry, GeometryRequest, Prompt, Randomness, VaderError
from vader_core.builtin.samplers.euler import Euler
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.method.gradient import Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.testing.backbones import backbone_clauses, backbone_subject

RNG = Randomness(0, samples=(0, 1))


@pytest.fixture(scope="module")
def subject():
    return backbone_subject("svd", {"weights": "random", "architecture": "tiny"})


@pytest.mark.slow_cases("bfloat16", "checkpointing", "swapping", "chosen_gradient", "gradient_to_lora")
@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_contract(clause, subject):
    clause.examine(subject)


def conditioned(backbone, prompts, geometry, **more):
    return backbone.condition(backbone.encode_text(prompts), prompts, geometry, RNG, **more)


# -- the pipeline ------------------------------------------------------------------------------------------


def pipeline_of(backbone) -> StableVideoDiffusionPipeline:
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    pipeline = StableVideoDiffusionPipeline(
        vae=backbone.autoencoder,
        image_encoder=backbone.image_encoder,
        unet=backbone.denoiser,
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.quick_cases("1")
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_picture_file_becomes_the_pipelines_video(make_backbone, prompts, num_steps):
    backbone = make_backbone(noise_aug_strength=0.0, motion_bucket_id=90)
    geometry = Geometry(24, 32, 5, 6)
    with torch.no_grad():
        conditioning = conditioned(backbone, prompts, geometry)
    noise = backbone.initial_noise(2, geometry, RNG)
    model = Model(backbone, Euler(), Guidance(backbone.defaults.guidance_scale), num_steps)
    latents = model.rollout(conditioning, geometry, RNG, noise=noise).latents
    with torch.no_grad():
        ours = backbone.decode(latents, geometry).clamp(0, 1)
    theirs = pipeline_of(backbone)(
        [Image.open(prompt.image) for prompt in prompts],
        height=24,
        width=32,
        num_frames=5,
        num_inference_steps=num_steps,
        fps=6,
        motion_bucket_id=90,
        noise_aug_strength=0.0,
        latents=noise.transpose(1, 2),
        output_type="pt",
    ).frames
    torch.testing.assert_close(ours, torch.stack(list(theirs)), atol=2e-4, rtol=0)


# -- geometry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "frames"), [("full", 14), ("xt", 25)])
def test_the_defaults_are_published(make_backbone, architecture, frames):
    backbone = make_backbone(load=False, architecture=architecture)
    assert backbone.defaults.geometry == Geometry(576, 1024, frames, 7)
    assert backbone.latent_shape(backbone.defaults.geometry) == (4, frames, 72, 128)
    assert backbone.defaults.guidance_scale == (1.0, 3.0)
    assert backbone.defaults.num_steps == 25


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (GeometryRequest(height=570), "multiple of 8, e.g. 568"),
        (GeometryRequest(width=3), "multiple of 8, e.g. 8"),
        (GeometryRequest(num_frames=0), "1 or more"),
        (GeometryRequest(fps=0.5), "1 or more"),
    ],
)
def test_a_geometry_that_cannot_be_made_is_refused(make_backbone, request_, words):
    with pytest.raises(VaderError, match=words):
        make_backbone(load=False, architecture="full").resolve_geometry(request_)


# -- conditioning ------------------------------------------------------------------------------------------


def test_the_model_is_told_fps_minus_one(make_backbone, prompts):
    backbone = make_backbone(motion_bucket_id=33, noise_aug_strength=0.5)
    conditioning = conditioned(backbone, prompts, Geometry(32, 32, 4, 9))
    assert conditioning.tensors["added_time_ids"].tolist() == [[8.0, 33.0, 0.5]] * 2
    assert conditioning.unconditional["added_time_ids"].tolist() == [[8.0, 33.0, 0.5]] * 2


def test_the_unconditional_branch_sees_no_picture(tiny, prompts, geometry):
    conditioning = conditioned(tiny, prompts, geometry)
    for name in ("image_embeddings", "image_latents"):
        assert conditioning.tensors[name].any()
        assert not conditioning.unconditional[name].any()


def test_noise_augmentation_follows_the_sample(make_backbone, prompts, geometry):
    noisy, clean = make_backbone(noise_aug_strength=0.3), make_backbone(noise_aug_strength=0.0)
    one = conditioned(noisy, prompts, geometry).tensors["image_latents"]
    assert not torch.allclose(one, conditioned(clean, prompts, geometry).tensors["image_latents"])
    text = noisy.encode_text(prompts[1:])
    alone = noisy.condition(text, prompts[1:], geometry, Randomness(0, samples=(1,))).tensors["image_latents"]
    torch.testing.assert_close(one[1:], alone, atol=1e-5, rtol=1e-4)


def test_a_given_frame_takes_the_pictures_place_and_carries_gradient(tiny, prompts, geometry):
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5)).requires_grad_(True)
    conditioning = conditioned(tiny, prompts, geometry, image=image)
    for name in ("image_embeddings", "image_latents"):
        (gradient,) = torch.autograd.grad(conditioning.tensors[name].square().sum(), image, retain_graph=True)
        assert gradient[0].any()
        assert gradient[1].any()
    without = conditioned(tiny, [Prompt("a"), Prompt("b")], geometry, image=image.detach())
    torch.testing.assert_close(without.tensors["image_latents"], conditioning.tensors["image_latents"])


def test_a_picture_file_of_the_videos_size_equals_the_same_frame(tiny, geometry, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / "frame.png"
    Image.fromarray(pixels).save(path)
    rng = Randomness(3)
    prompt = [Prompt("a", image=path)]
    text = tiny.encode_text(prompt)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0
    read = tiny.condition(text, prompt, geometry, rng).tensors
    given = tiny.condition(text, prompt, geometry, rng, image=image).tensors
    for name in read:
        torch.testing.assert_close(read[name], given[name])


def test_cropping_keeps_the_shape_of_things(make_backbone, tmp_path, geometry):
    wide = Image.new("RGB", (96, 32), (255, 0, 0))
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    path = tmp_path / "wide.png"
    wide.save(path)
    blue = Image.new("RGB", (32, 32), (0, 0, 255))
    centre = tmp_path / "centre.png"
    blue.save(centre)
    crop, stretch = make_backbone(image_fit="crop"), make_backbone(image_fit="stretch")
    middle = conditioned(crop, [Prompt("a", image=centre)] * 2, geometry).tensors
    cropped = conditioned(crop, [Prompt("a", image=path)] * 2, geometry).tensors
    stretched = conditioned(stretch, [Prompt("a", image=path)] * 2, geometry).tensors
    for name in ("image_embeddings", "image_latents"):
        torch.testing.assert_close(cropped[name], middle[name])
        assert not torch.allclose(stretched[name], middle[name], atol=1e-3)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt("a boat"), "starts from a picture.*'a boat' has none"),
        (Prompt("a", negative="grey"), "reads no text.*'grey'"),
    ],
)
def test_prompts_it_cannot_use_are_refused(tiny, geometry, prompt, words):
    with pytest.raises(VaderError, match=words):
        conditioned(tiny, [prompt, prompt], geometry)


def test_unreadable_pictures_are_named(tiny, geometry, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    for path in (broken, tmp_path / "absent.png"):
        with pytest.raises(VaderError, match=f"{path.name} is not a readable picture"):
            conditioned(tiny, [Prompt("a", image=path)] * 2, geometry)


def test_a_frame_of_another_size_is_refused(tiny, prompts, geometry):
    with pytest.raises(VaderError, match=r"\(2, 3, 16, 16\), not \(2, 3, 32, 32\)"):
        conditioned(tiny, prompts, geometry, image=torch.zeros(2, 3, 16, 16))


# -- decoding ----------------------------------------------------------------------------------------------


def latents_of(backbone, geometry, batch=2):
    return backbone.initial_noise(batch, geometry, Randomness(7, samples=tuple(range(batch))))


@torch.no_grad()
def test_more_neighbours_bring_a_frame_nearer_to_the_full_decode(make_backbone):
    backbone = make_backbone()
    geometry = Geometry(16, 16, 9, 7)
    latents = latents_of(backbone, geometry)
    full = backbone.decode(latents, geometry)
    errors = []
    for neighbours in (0, 2, 3, 4):
        backbone.config = backbone.config.model_copy(update={"neighbours": neighbours})
        errors.append(float((backbone.decode(latents, geometry, [4]) - full[:, [4]]).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.05
    assert errors[-1] < 1e-5
    backbone.config = backbone.config.model_copy(update={"neighbours": "all"})
    torch.testing.assert_close(backbone.decode(latents, geometry, [8, 0]), full[:, [8, 0]])


@torch.no_grad()
def test_a_frame_reads_no_further_than_its_neighbours(make_backbone):
    backbone = make_backbone(neighbours=1)
    geometry = Geometry(16, 16, 8, 7)
    latents = latents_of(backbone, geometry)
    far = latents.clone()
    far[:, :, 4:] += 1.0
    near = latents.clone()
    near[:, :, 3] += 1.0
    found = backbone.decode(latents, geometry, [2])
    torch.testing.assert_close(backbone.decode(far, geometry, [2]), found)
    assert not torch.allclose(backbone.decode(near, geometry, [2]), found, atol=1e-3)


@torch.no_grad()
def test_naming_every_frame_is_the_full_decode(make_backbone, geometry):
    for chunk in (None, 3):
        backbone = make_backbone(decode_chunk=chunk, neighbours=0)
        latents = latents_of(backbone, geometry)
        full = backbone.decode(latents, geometry)
        assert torch.equal(backbone.decode(latents, geometry, [3, 0, 1, 2]), full[:, [3, 0, 1, 2]])


@torch.no_grad()
def test_encoding_a_video_is_framewise_and_scaled(tiny, geometry):
    video = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    latents = tiny.encode_video(video, Randomness(0))
    assert latents.shape == (2, *tiny.latent_shape(geometry))
    alone = tiny.encode_first_frames(video[1, 2:3], torch.zeros(1, 3, 32, 32))
    torch.testing.assert_close(latents[1:, :, 2], alone * 0.18215, atol=1e-6, rtol=1e-4)


# -- half precision ----------------------------------------------------------------------------------------


@pytest.mark.quick_cases("dtype0")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_encoder_stays_in_float32(make_backbone, prompts, geometry, dtype):
    half, single = make_backbone(dtype), make_backbone()
    assert half.autoencoder.encoder.conv_in.weight.dtype == torch.float32
    assert half.autoencoder.decoder.conv_in.weight.dtype == dtype
    assert half.denoiser.conv_in.weight.dtype == dtype
    wanted = conditioned(single, prompts, geometry).tensors["image_latents"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conditioned(half, prompts, geometry).tensors["image_latents"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def lora_gradient(backbone, prompts, geometry, weight, scale):
    """The LoRA's gradient through the last step alone, of a loss as small as a pixel's share of a mean."""
    attach_lora(backbone.denoiser, LoraSettings(2, 2.0, backbone.lora_targets))
    model = Model(backbone, Euler(), Guidance((1.0, 3.0)), 2)
    conditioning = backbone.condition(backbone.encode_text(prompts), prompts, geometry, Randomness(0))
    latents = model.rollout(conditioning, geometry, Randomness(0), Drawn(frozenset({1}))).latents
    loss = backbone.decode(latents, geometry, [1]).mean() * weight * scale
    parameters = [
        value for name, value in adapter_parameters(backbone.denoiser).items() if ".lora_B." in name
    ]
    gradients = torch.autograd.grad(loss, parameters)
    return torch.cat([gradient.flatten() for gradient in gradients]).double() / scale


@pytest.mark.slow
def test_loss_scaling_saves_the_last_steps_gradient_in_float16(make_backbone, prompts):
    weight, prompts, geometry = 0.01, prompts[:1], Geometry(16, 16, 2, 7)
    wanted = lora_gradient(make_backbone(), prompts, geometry, weight, 1.0)
    bare = lora_gradient(make_backbone(torch.float16), prompts, geometry, weight, 1.0)
    # 2^16 is where torch's GradScaler begins.
    scaled = lora_gradient(make_backbone(torch.float16), prompts, geometry, weight, 2.0**16)
    assert bare.norm() < 0.1 * wanted.norm()
    # What is left is float16's rounding of weights and activations.
    assert (scaled - wanted).norm() < 0.25 * wanted.norm()


def test_the_tiny_model_is_tiny_and_the_full_one_is_not():
    assert NAMED["tiny"].vae_factor == 2
    assert NAMED["full"].vae_factor == 8
