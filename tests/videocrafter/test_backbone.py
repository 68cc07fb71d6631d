"""The backbone beyond its contract."""

from __future__ import annotations

import warnings

import pytest
import torch
from tiny_videocrafter import make_backbone
from torch import nn
from vader_videocrafter.architecture import resolve_architecture
from vader_videocrafter.autoencoder import FrameCodec, build_autoencoder
from vader_videocrafter.text_encoder import tokenize

from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.nn import long_texts
from vader_core.profiling.paper_device import on_paper
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry

PROMPTS = (Prompt("a red boat"), Prompt("two dogs run", negative="grey"))


def latents_of(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, frames, 4, 6, generator=torch.Generator().manual_seed(seed))


def test_released_defaults():
    defaults = make_backbone(architecture="full").defaults
    assert defaults.geometry == Geometry(320, 512, 12, 24)
    assert (defaults.num_steps, defaults.guidance_scale, defaults.sampler) == (25, 12.0, "ddim_videocrafter")
    assert defaults.sampler_options == {"eta": 1.0}
    assert (defaults.gradient, defaults.sample_frames, defaults.negative_prompt) == ("last", 24, "")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GeometryRequest(height=330), r"height=330 is not allowed: use a multiple of 64 \(nearest: 320\)"),
        (GeometryRequest(width=500), r"width=500 .* \(nearest: 512\)"),
        (GeometryRequest(height=0), r"nearest: 64"),
        (GeometryRequest(num_frames=0), "num_frames=0 is not allowed"),
        (GeometryRequest(num_frames="2s"), "not a whole number"),
        (GeometryRequest(fps=0), "fps=0 is not allowed"),
    ],
)
def test_geometries_that_cannot_be_made(request_, message):
    with pytest.raises(VaderError, match=message):
        make_backbone(architecture="full").resolve_geometry(request_)


def test_any_number_of_frames_with_a_warning_past_24():
    full = make_backbone(architecture="full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert full.latent_shape(full.resolve_geometry(GeometryRequest(num_frames=24))) == (4, 24, 40, 64)
    with pytest.warns(UserWarning, match="num_frames=25 is more than the 24"):
        full.resolve_geometry(GeometryRequest(num_frames=25))


@pytest.mark.parametrize("value", ["huge", {"unet": {"model_channels": 33}}, {"text": {"width": 7}}])
def test_sizes_that_do_not_exist_or_do_not_fit(value):
    with pytest.raises(VaderError, match="architecture"):
        load_registry().get("backbone", "videocrafter").options({"architecture": value})


def test_nothing_in_it_is_in_training_mode_or_drops_out(backbone):
    for module in backbone.modules().values():
        assert not any(part.training for part in module.modules())
        assert not any(value.requires_grad for value in module.parameters())
    assert not any(isinstance(part, nn.Dropout) for part in backbone.denoiser.modules())


def test_the_frame_rate_reaches_both_branches(backbone):
    text = backbone.encode_text(PROMPTS)
    slow, fast = (
        backbone.condition(text, PROMPTS, Geometry(16, 24, 3, fps), Randomness(0, samples=(0, 1)))
        for fps in (8, 24)
    )
    latents, time = latents_of(3), torch.tensor([500.0, 500.0])
    for branch in ("conditional_branch", "unconditional_branch"):
        with torch.no_grad():
            a, b = (backbone.predict(latents, time, getattr(c, branch)).value for c in (slow, fast))
        assert not torch.allclose(a, b)


def test_the_negative_prompt_is_the_empty_text_unless_given(backbone):
    text = backbone.encode_text(PROMPTS)
    empty, grey = backbone.encode_texts(["", "grey"])["context"]
    torch.testing.assert_close(text.negative["context"][0], empty)
    torch.testing.assert_close(text.negative["context"][1], grey)


def test_texts_are_encoded_once(backbone, monkeypatch):
    first = backbone.encode_text(PROMPTS).positive["context"]
    monkeypatch.setattr(backbone, "text_encoder", None)
    assert torch.equal(backbone.encode_text(PROMPTS).positive["context"], first)


def test_released_encoder_still_answers(backbone):
    first = backbone.encode_texts(["a new text"])["context"]
    backbone.release_text_encoder()
    assert torch.equal(backbone.encode_texts(["a new text"])["context"], first)


def test_cache_keys_differ_where_encodings_do(tmp_path):
    from tiny_videocrafter import official_tensors

    keys = {make_backbone().text_cache.key, make_backbone(dtype=torch.bfloat16).text_cache.key}
    for name in ("a.ckpt", "b.ckpt"):
        torch.save(official_tensors(), tmp_path / name)
        keys.add(make_backbone(weights=str(tmp_path / name)).text_cache.key)
    assert len(keys) == 4


def test_long_texts_end_with_the_end_token(monkeypatch):
    monkeypatch.setattr(long_texts, "_SAID", set())
    with pytest.warns(long_texts.TextCutWarning, match="cut to 77 tokens; the first that is longer has 102"):
        tokens = tokenize(["word " * 100, "short"])
    assert tokens.shape == (2, 77)
    assert (tokens[0, 0], tokens[0, -1]) == (49406, 49407)
    assert tokens[1].tolist()[3:] == [0] * 74


def test_more_sequences_than_one_kernel_takes(backbone, monkeypatch):
    arguments = (latents_of(3), torch.tensor([500.0, 20.0]), torch.randn(2, 7, 32), torch.tensor([24.0, 8.0]))
    with torch.no_grad():
        whole = backbone.denoiser(*arguments)
        monkeypatch.setattr("vader_core.nn.functional.MOST_SEQUENCES", 5)
        torch.testing.assert_close(backbone.denoiser(*arguments), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow_cases("1")
@pytest.mark.parametrize("size", [1, 2, None])
def test_slices_change_no_number(backbone, size):
    geometry, latents = Geometry(16, 24, 5, 24), latents_of(5)
    sliced = make_backbone(decode_slice=size)
    sliced.load()
    with torch.no_grad():
        torch.testing.assert_close(
            sliced.decode(latents, geometry), backbone.decode(latents, geometry), rtol=1e-4, atol=1e-5
        )


def test_recomputed_decoding_has_the_same_gradient():
    made = make_backbone(decode_slice=2)
    made.load()
    gradients = []
    for on in (False, True):
        latents = latents_of(5).requires_grad_()
        with made.checkpointing(on):
            video = made.decode(latents, Geometry(16, 24, 5, 24), [4, 0, 2])
        video.square().sum().backward()
        gradients.append(latents.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0][:, :, [1, 3]].abs().max() == 0
    assert gradients[0][:, :, [0, 2, 4]].abs().min(dim=2).values.max() > 0


def test_tiles_are_blended_to_the_same_size():
    whole, tiled = make_backbone(), make_backbone(decode_tiling=True)
    for made in (whole, tiled):
        made.load()
    latents = torch.randn(1, 4, 1, 140, 20, generator=torch.Generator().manual_seed(0))
    geometry = Geometry(280, 40, 1, 24)
    with torch.no_grad():
        a, b = whole.decode(latents, geometry), tiled.decode(latents, geometry)
    assert a.shape == b.shape == (1, 1, 3, 280, 40)
    # A tile normalises by its own statistics, so the picture is another, but a near one.
    difference = (a - b).abs().mean().item()
    assert 0 < difference < 0.25 * a.std().item()


def test_frames_that_do_not_exist(backbone):
    with pytest.raises(VaderError, match="frame 3 does not exist: use 0 to 2"):
        backbone.decode(latents_of(3), Geometry(16, 24, 3, 24), [0, 3])


def test_modules_that_rest_on_the_cpu_change_no_number(backbone):
    resting = make_backbone(offload_text_encoder=True, offload_autoencoder=True)
    resting.load()
    geometry, latents = Geometry(16, 24, 3, 24), latents_of(3)
    assert torch.equal(resting.encode_texts(["a"])["context"], backbone.encode_texts(["a"])["context"])
    with torch.no_grad():
        assert torch.equal(resting.decode(latents, geometry), backbone.decode(latents, geometry))


def test_an_autoencoder_at_rest_lends_copies_of_its_weights(backbone):
    codec = FrameCodec(backbone.autoencoder, device=torch.device("meta"), slice_size=None, tiling=False)
    decoded = codec.decode(torch.zeros(2, 4, 4, 6, device="meta"))
    assert decoded.is_meta
    assert decoded.shape == (2, 3, 8, 12)
    assert not any(value.is_meta for value in backbone.autoencoder.parameters())


def test_many_texts_are_encoded_in_parts(backbone, monkeypatch):
    texts = [f"word {index}" for index in range(5)]
    whole = backbone.encode_texts(texts)["context"]
    monkeypatch.setattr("vader_videocrafter.backbone.TEXTS_AT_ONCE", 2)
    torch.testing.assert_close(backbone.encode_texts(texts)["context"], whole)


def test_half_precision_weights_predict_in_the_latents_dtype():
    half = make_backbone(dtype=torch.bfloat16)
    half.load()
    conditioning = half.condition(
        half.encode_text(PROMPTS), PROMPTS, Geometry(16, 24, 3, 24), Randomness(0, samples=(0, 1))
    )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = half.predict(latents_of(3), torch.tensor([500.0, 20.0]), conditioning).value
        video = half.decode(latents_of(3), Geometry(16, 24, 3, 24))
    assert prediction.dtype == video.dtype == torch.float32


def test_a_device_named_without_its_number_is_where_the_weights_are():
    with on_paper() as device:
        with torch.device("meta"):
            autoencoder = build_autoencoder(resolve_architecture("tiny").autoencoder)
        autoencoder.to_empty(device="cuda").requires_grad_(False)  # lies on "cuda:0"
        codec = FrameCodec(autoencoder, device=torch.device("cuda"), slice_size=None, tiling=False)
        peaks = []
        for recompute in (True, False):
            latents = torch.zeros(1, 4, 32, 32, device="cuda", requires_grad=True)
            device.ledger.reset()
            codec.decode(latents, recompute=recompute).sum().backward()
            peaks.append(device.ledger.peak)
        assert peaks[0] < 0.8 * peaks[1]
