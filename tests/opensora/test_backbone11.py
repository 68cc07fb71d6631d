"""Open-Sora 1.1 on its tiny random model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_opensora11 import SMALL, bare, make
from vader_opensora.v11.options import OpenSora11Options

from vader_core.builtin.samplers.iddpm import IDDPM
from vader_core.builtin.samplers.options import IDDPMOptions
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.method.gradient import NO_GRADIENT, Drawn
from vader_core.method.guidance import Guidance
from vader_core.method.model import Model
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.video import write_video

PROMPTS = [Prompt("a red boat"), Prompt("two dogs run over a field of snow")]


@pytest.fixture(scope="module")
def backbone():
    return make()


def occasion(prompts):
    return Randomness(1, samples=tuple(range(len(prompts))))


def conditioned(backbone, prompts, geometry=SMALL, **given):
    return backbone.condition(backbone.encode_text(prompts), prompts, geometry, occasion(prompts), **given)


def rolled_out(backbone, prompts, steps=4, geometry=SMALL, drawn=NO_GRADIENT, watch=None, **given):
    guidance = Guidance(7.0, channels=backbone.defaults.guidance_channels)
    model = Model(backbone, IDDPM(IDDPMOptions(table_dtype="float32")), guidance, steps)
    conditioning = conditioned(backbone, prompts, geometry, **given)
    return model.rollout(conditioning, geometry, occasion(prompts), drawn, watch=watch).latents


# -- what is known at once -------------------------------------------------------------------------------


def test_defaults_are_the_official_sampling():
    backbone = bare()
    defaults = backbone.defaults
    assert defaults.geometry == Geometry(240, 426, 16, 8.0)
    assert (defaults.num_steps, defaults.guidance_scale, defaults.guidance_channels) == (100, 7.0, 3)
    assert (defaults.sampler, dict(defaults.sampler_options)) == ("iddpm", {"table_dtype": "float32"})
    assert backbone.latent_shape(defaults.geometry) == (4, 16, 30, 53)
    assert backbone.video_size(defaults.geometry) == (240, 424)
    assert backbone.latent_shape(Geometry(314, 732, 33, 8.0)) == (4, 33, 39, 91)


def test_the_last_of_the_default_steps_takes_a_hundredth_of_the_prediction():
    defaults = bare().defaults
    sampler = IDDPM(IDDPMOptions(**defaults.sampler_options))
    tables = sampler.plan(bare().schedule, defaults.num_steps, SMALL).tables
    taken = [
        -clean * mean for clean, mean in zip(tables["clean_prediction"], tables["mean_clean"], strict=True)
    ]
    assert taken[-1] == pytest.approx(0.0100, abs=5e-5)
    assert taken[-2] == pytest.approx(0.0448, abs=5e-5)
    assert taken[-3] == pytest.approx(0.0517, abs=5e-5)
    assert taken[0] == pytest.approx(0.2015, abs=5e-5)
    assert defaults.gradient == "last:3"


@pytest.mark.slow
def test_the_default_gradient_reaches_the_lora_well():
    norms = []
    for last in (1, 3):
        backbone = make()
        attach_lora(backbone.denoiser, LoraSettings(rank=2, targets=backbone.lora_targets))
        final = rolled_out(backbone, PROMPTS[:1], 100, drawn=Drawn(frozenset(range(100 - last, 100))))
        backbone.decode(final, SMALL, [1]).mean().backward()
        gradients = [value.grad.norm() for value in adapter_parameters(backbone.denoiser).values()]
        norms.append(float(torch.stack(gradients).norm()))
    assert norms[1] > 4 * norms[0] > 0


@pytest.mark.parametrize(
    ("options", "request_", "said"),
    [
        ({}, GeometryRequest(num_frames=0), "use 1 "),
        ({}, GeometryRequest(num_frames="2s"), "not a whole number"),
        ({}, GeometryRequest(width=8), "use 16 or more"),
        ({"resolution": "360p"}, GeometryRequest(height=240), "which is 360 x 640"),
    ],
)
def test_geometry_errors(options, request_, said):
    with pytest.raises(VaderError, match=said):
        bare(**options).resolve_geometry(request_)


def test_unknown_architectures_are_refused():
    for given in ("huge", {"denoiser": {"depht": 2}}, {"denoiser": {"hidden_size": 64}}, {"unet": {}}):
        with pytest.raises(ValueError, match="architecture"):
            OpenSora11Options(architecture=given)


# -- what the model is told ------------------------------------------------------------------------------


def test_conditions():
    told = bare().told(Geometry(480, 854, 16, 8.0))
    assert told == {
        "height": 480,
        "width": 854,
        "ratio": pytest.approx(480 / 854),
        "num_frames": 16,
        "fps": 24,
    }
    assert bare(frame_interval=1).told(SMALL)["fps"] == 8
    assert bare().told(replace(SMALL, num_frames=1))["fps"] == 120


def test_upstreams_differences_have_options():
    wide = Geometry(480, 854, 16, 8.0)
    assert bare(told_ratio="width/height").told(wide)["ratio"] == pytest.approx(854 / 480)
    rounded = bare(conditioning_dtype="bfloat16").told(wide)
    assert (rounded["width"], rounded["ratio"]) == (856, 0.5625)


def test_timesteps_may_be_rounded_as_officially():
    exact, rounding = make(), make(timestep_dtype="bfloat16")
    latents = exact.initial_noise(1, SMALL, Randomness(0))

    def said(backbone, timestep):
        conditioning = conditioned(backbone, PROMPTS[:1])
        with torch.no_grad():
            return backbone.predict(latents, torch.tensor([timestep]), conditioning).value

    assert torch.equal(said(rounding, 501.0), said(exact, 500.0))
    assert not torch.equal(said(exact, 501.0), said(exact, 500.0))


def test_the_null_text_has_the_prompts_mask(backbone):
    conditioning = conditioned(backbone, PROMPTS)
    assert torch.equal(conditioning.tensors["mask"], conditioning.unconditional["mask"])
    null = backbone.denoiser.y_embedder.y_embedding[: conditioning.tensors["mask"].shape[1]]
    assert torch.equal(conditioning.unconditional["text"][1], null)
    negative = conditioned(backbone, [replace(PROMPTS[1], negative="blurry")]).unconditional
    assert negative["mask"][0].sum() == 2


def test_no_score_is_appended(backbone):
    text = backbone.encode_text([Prompt("A  CAT")])
    assert text.positive["mask"].sum() == 3


def test_a_packed_batch_is_each_text_alone(backbone):
    latents = backbone.initial_noise(2, SMALL, Randomness(0, samples=(0, 1)))
    with torch.no_grad():
        both = backbone.predict(latents, torch.tensor([700.0, 700.0]), conditioned(backbone, PROMPTS))
        for row in (0, 1):
            one = conditioned(backbone, PROMPTS[row : row + 1])
            alone = backbone.predict(latents[row : row + 1], torch.tensor([700.0]), one)
            torch.testing.assert_close(both.value[row : row + 1], alone.value, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(both.variance[row : row + 1], alone.variance, rtol=1e-4, atol=1e-5)


# -- frames that are given -------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    frames = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, 3, 32, 48)
    write_video(frames, path, fps=8)
    return path


def given_of(backbone, strategy, path):
    prompt = Prompt("a boat", metadata={"reference_path": str(path), "mask_strategy": strategy})
    return conditioned(backbone, [prompt]).tensors, prompt


def test_a_picture_is_the_first_frame(backbone, tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (96, 64), (255, 0, 0)).save(path)
    prompt = Prompt("a boat", image=path)
    given = conditioned(backbone, [prompt]).tensors
    assert given["frame_mask"].tolist() == [[0, 1, 1, 1]]
    seen = []
    final = rolled_out(backbone, [prompt], watch=lambda one: seen.append(one.after))
    assert all(torch.equal(one[:, :, 0], given["reference"][:, :, 0]) for one in seen[:-1])
    # Officially the last step moves given frames too, by a hundredth of the noise that is predicted.
    off = (final - given["reference"])[:, :, 0].abs().max()
    assert 0 < float(off) < 0.2
    image = torch.zeros(1, 3, 32, 48)
    image[:, 0] = 1
    again = conditioned(backbone, [Prompt("a boat")], image=image).tensors
    torch.testing.assert_close(again["reference"], given["reference"])


def test_a_clip_is_continued_from_its_last_frames(backbone, clip):
    given, _ = given_of(backbone, "0,0,-2,0,2", clip)
    assert given["frame_mask"].tolist() == [[0, 0, 1, 1]]
    whole, _ = given_of(backbone, "0,0,2,0,4", clip)
    torch.testing.assert_close(given["reference"][:, :, :2], whole["reference"][:, :, 2:])


def test_edited_frames_join_at_their_step(backbone, clip):
    given, prompt = given_of(backbone, "0,0,0,0,1;0,0,1,1,1,0.5", clip)
    assert given["frame_mask"].tolist() == [[0, 0.5, 1, 1]]
    seen = []
    rolled_out(backbone, [prompt], watch=lambda one: seen.append(one.after))
    same = [torch.equal(one[:, :, 1], given["reference"][:, :, 1]) for one in seen]
    assert same == [True, False, False, False]


def test_options_at_the_end_of_a_prompt(backbone, clip):
    line = f'a boat{{"reference_path": "{clip}", "mask_strategy": "0;0,0,-1,-1"}}'
    assert conditioned(backbone, [Prompt(line)]).tensors["frame_mask"].tolist() == [[0, 1, 1, 0]]
    with pytest.raises(VaderError, match="needs an image or a reference_path"):
        conditioned(backbone, [Prompt('a boat{"mask_strategy": "0"}')])


def test_frames_that_are_given_are_told_timestep_0(backbone):
    conditioning = conditioned(backbone, PROMPTS[:1], image=torch.zeros(1, 3, 32, 48))
    latents = backbone.initial_noise(1, SMALL, Randomness(0))
    with torch.no_grad():
        masked = backbone.predict(latents, torch.tensor([700.0]), conditioning).value
        free = backbone.predict(latents, torch.tensor([700.0]), conditioned(backbone, PROMPTS[:1])).value
    assert (masked - free).abs().amax(dim=(0, 1, 3, 4))[0] > 1e-2


# -- pixels ----------------------------------------------------------------------------------------------


def test_encoding_draws_from_the_posterior(backbone):
    video = torch.rand(2, 5, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    rng = Randomness(3, samples=(4, 9))
    drawn, means = backbone.encode_video(video, rng), backbone.means(video)
    posterior = backbone.autoencoder.module.encode(video.flatten(0, 1) * 2 - 1).latent_dist
    noise = rng.normal("encode", (5, 4, 4, 6)).flatten(0, 1)
    expected = (posterior.mean + posterior.std * noise) * 0.18215
    torch.testing.assert_close(drawn, expected.unflatten(0, (2, 5)).transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert not torch.equal(drawn, means)
    alone = backbone.encode_video(video[1:], Randomness(3, samples=(9,)))
    torch.testing.assert_close(alone, drawn[1:], rtol=1e-4, atol=1e-5)


def test_a_frame_is_decoded_alone(backbone):
    latents = backbone.initial_noise(1, SMALL, Randomness(0))
    whole = backbone.decode(latents, SMALL)
    torch.testing.assert_close(backbone.decode(latents, SMALL, [2, 0]), whole[:, [2, 0]])
