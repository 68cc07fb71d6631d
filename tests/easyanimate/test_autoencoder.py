"""Chunks, slices, tiles and seams of the autoencoders."""

from __future__ import annotations

import pytest
import torch
from tiny_easyanimate import SMALL, make
from vader_easyanimate.architecture import TINY, AutoencoderConfig
from vader_easyanimate.tile_size import Tiling
from vader_easyanimate.video_vae import VideoVAE

from vader_core.errors import VaderError
from vader_core.nn.build import fill_randomly, frozen

SLICE = {"slice_compression_vae": True, "mini_batch_encoder": 8, "mini_batch_decoder": 2}


def autoencoder(**changes) -> VideoVAE:
    model = VideoVAE(AutoencoderConfig(**{**TINY["vae"], **changes}))
    fill_randomly(model, 5)
    return frozen(model)


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("changes", "frames", "latents"),
    [
        ({}, 1, 1),
        ({}, 9, 3),
        ({}, 144, 48),
        (SLICE, 1, 1),
        (SLICE, 8, 2),
        (SLICE, 25, 7),
        (SLICE, 144, 36),
    ],
)
def test_pieces_cover_every_frame_once(changes, frames, latents):
    model = VideoVAE(AutoencoderConfig(**{**TINY["vae"], **changes}))
    assert model.config.latent_frames(frames) == latents
    forward, back = model.pieces(num_frames=frames), model.pieces(num_latents=latents)
    assert forward == back
    assert [f for one in forward for f in range(*one.frames)] == list(range(frames))
    assert [t for one in forward for t in range(*one.latents)] == list(range(latents))


@pytest.mark.parametrize(("changes", "wrong"), [({}, 10), ({}, 8), ({}, 0), (SLICE, 10), (SLICE, 0)])
def test_frames_that_are_no_chunks_are_refused(changes, wrong):
    with pytest.raises(VaderError, match=f"num_frames={wrong} is not allowed: use 1 or a multiple of"):
        AutoencoderConfig(**changes).check_frames(wrong)


@pytest.mark.parametrize("changes", [{}, SLICE], ids=["magvit", "slice"])
def test_only_pieces_that_hold_a_frame_are_decoded(changes):
    model = autoencoder(**changes)
    frames = 4 * model.config.mini_batch_encoder
    z = normal(1, 4, model.config.latent_frames(frames), 3, 4)
    whole, seen = model.decode(z), []
    model.decoder.up_blocks[0].register_forward_hook(lambda module, args, out: seen.append(out.shape[2]))
    frame = model.config.mini_batch_encoder + 1
    assert torch.equal(model.decode(z, [frame])[:, :, 0], whole[:, :, frame])
    assert seen == [model.config.mini_batch_decoder]


def test_a_slice_sees_its_neighbours_latents_and_a_chunk_does_not():
    for changes, reaches in ((SLICE, True), ({}, False)):
        model = autoencoder(**changes)
        unit = model.config.mini_batch_decoder
        z = normal(1, 4, 3 * unit, 2, 2).requires_grad_()
        model.decode(z, [0]).sum().backward()
        assert bool(z.grad[:, :, unit : 2 * unit].abs().max() > 0) is reaches
        assert not bool(z.grad[:, :, 2 * unit :].abs().max() > 0)


@pytest.mark.quick_cases("size0")
@pytest.mark.parametrize("size", [(64, 80), (96, 104), (60, 97), (32, 50)])
def test_narrow_last_tiles(size):
    model = autoencoder()
    video = normal(1, 3, 9, *size)
    plain = model.encode(video)
    model.tiling = Tiling(32)
    latents = model.encode(video)
    assert latents.shape == plain.shape
    assert bool(torch.isfinite(latents).all())
    assert model.decode(latents).shape[-2:] == tuple(8 * side for side in latents.shape[-2:])


def test_one_tile_is_no_tile():
    model = autoencoder()
    video = normal(1, 3, 9, 64, 64)
    plain = model.encode(video)
    model.tiling = Tiling(64)
    assert torch.equal(model.encode(video), plain)


def test_tiles_that_begin_between_latents_are_refused():
    with pytest.raises(VaderError, match="use a multiple of 32"):
        Tiling(40)


@pytest.mark.parametrize("changes", [{}, SLICE], ids=["magvit", "slice"])
def test_smoothing_leaves_both_ends(changes):
    model = autoencoder(**changes)
    chunk = model.config.mini_batch_encoder
    video = normal(1, 3, 3 * chunk, 16, 16).clamp(-1, 1)
    smooth = model.smoothed(video, normal_of_shape)
    front, back = chunk // 2, chunk - chunk // 2
    assert torch.equal(smooth[:, :, :front], video[:, :, :front])
    assert torch.equal(smooth[:, :, -back:], video[:, :, -back:])
    assert not torch.equal(smooth[:, :, front:-back], video[:, :, front:-back])
    assert torch.equal(model.smoothed(video[:, :, :chunk], normal_of_shape), video[:, :, :chunk])


def normal_of_shape(shape):
    return normal(*shape)


def test_smooth_output_is_for_whole_videos_without_a_gradient():
    plain, smooth = make(), make(smooth_output=True)
    assert plain.decode_is_exact
    assert not smooth.decode_is_exact
    geometry = SMALL
    z = normal(2, *plain.latent_shape(geometry))
    with torch.no_grad():
        whole, softened = plain.decode(z, geometry), smooth.decode(z, geometry)
        assert torch.equal(smooth.decode(z, geometry, [4]), whole[:, [4]])
        assert not torch.equal(softened, whole)
        assert torch.allclose(smooth.decode(z[:1], geometry), softened[:1], atol=1e-5)
    assert torch.equal(smooth.decode(z, geometry).detach(), plain.decode(z, geometry).detach())
