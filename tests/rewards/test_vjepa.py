"""V-JEPA: hidden patches are hidden before the encoder, and the parts equal transformers' own."""

from __future__ import annotations

import pytest
import torch
from vader_rewards.masks import PRETRAINING_SETS, Mask, MaskSet, draw_mask
from vader_rewards.options import VjepaOptions
from vader_rewards.vjepa import Vjepa

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness


@pytest.fixture(scope="module")
def reward():
    options = VjepaOptions(weights="random", architecture="tiny")
    return Vjepa(options, device=torch.device("cpu"), dtype=torch.float32)


def video(frames=4, batch=1):
    return torch.rand(batch, frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def some_mask(total):
    order = torch.randperm(total, generator=torch.Generator().manual_seed(1))
    return Mask(visible=order[: total // 2].sort().values, hidden=order[total // 2 :].sort().values)


def patch_gradient(gradient, reward):
    """Gradient norm of each patch of (frames in tubelets, rows, columns)."""
    size, tubelet = reward.model.config.patch_size, reward.tubelet
    parts = gradient[0].unfold(0, tubelet, tubelet).unfold(2, size, size).unfold(3, size, size)
    return parts.square().sum(dim=(1, 4, 5, 6)).sqrt().flatten()


def test_hidden_patches_have_no_gradient_and_visible_ones_do(reward):
    pixels = reward.pixels(video()).requires_grad_()
    mask = some_mask(2 * 4 * 4)
    (gradient,) = torch.autograd.grad(reward.masked_loss(pixels, [mask]).sum(), pixels)
    norms = patch_gradient(gradient, reward)
    assert norms[mask.hidden].max() == 0
    assert norms[mask.visible].min() > 0


def test_the_prediction_does_not_depend_on_hidden_pixels(reward):
    mask = some_mask(2 * 4 * 4)
    pixels = reward.pixels(video())
    patches = torch.zeros(32, dtype=torch.bool)
    patches[mask.hidden] = True
    hidden = patches.view(2, 4, 4).repeat_interleave(2, 0).repeat_interleave(16, 1).repeat_interleave(16, 2)
    changed = torch.where(hidden[None, :, None], torch.randn_like(pixels), pixels)
    first, second = (
        reward.predict(reward.encode(value, mask.visible), mask, 0) for value in (pixels, changed)
    )
    torch.testing.assert_close(first, second)


def test_encoder_and_predictor_equal_transformers(reward):
    pixels = reward.pixels(video(batch=2))
    mask = some_mask(2 * 4 * 4)
    with torch.no_grad():
        features = reward.encode(pixels)
        torch.testing.assert_close(features, reward.model.encoder(pixels).last_hidden_state)
        masks = [[one.expand(2, -1)] for one in (mask.visible, mask.hidden)]
        expected = reward.model.predictor(features, *masks).last_hidden_state
        # transformers always uses mask token 1.
        found = reward.predict(features[:, mask.visible], mask, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_v_jepas(reward):
    pixels, mask = reward.pixels(video()), some_mask(2 * 4 * 4)
    with torch.no_grad():
        target = torch.nn.functional.layer_norm(reward.encode(pixels), (48,))[:, mask.hidden]
        predicted = reward.predict(reward.encode(pixels, mask.visible), mask, 0)
        expected = (predicted - target).abs().mean()
        torch.testing.assert_close(reward.masked_loss(pixels, [mask])[0], expected)


def test_masks_follow_the_rng_alone(reward):
    state = torch.get_rng_state()
    first = reward.draw_masks(4, Randomness(1))
    again = reward.draw_masks(4, Randomness(1))
    other = [reward.draw_masks(4, Randomness(seed)) for seed in range(2, 12)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a.hidden, b.hidden) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(first[0].hidden, masks[0].hidden) for masks in other)


@pytest.mark.parametrize("kind", PRETRAINING_SETS, ids=lambda kind: f"{kind.blocks} blocks")
def test_masks_cover_all_frames_and_leave_something(kind):
    for seed in range(20):
        mask = draw_mask(kind, (3, 14, 14), torch.Generator().manual_seed(seed))
        assert sorted(torch.cat([mask.visible, mask.hidden]).tolist()) == list(range(3 * 14 * 14))
        assert len(mask.visible)
        frames = mask.hidden.view(3, -1)
        assert torch.equal(frames[0] + 196, frames[1])
        share = frames.shape[1] / 196
        # Eight blocks of 15 % overlap; two of 70 % cover at least one, and a block may be cut to the frame.
        assert share <= 1
        assert share >= 0.15 * 0.8 if kind.blocks == 8 else share >= 0.6


def test_a_grid_too_small_to_mask_is_refused():
    with pytest.raises(VaderError, match="too few to hide"):
        draw_mask(MaskSet(1, 1.0, (1.0, 1.0)), (1, 2, 2), torch.Generator().manual_seed(0))


def test_an_odd_last_frame_is_not_seen(reward):
    even, rng = video(4), Randomness(3)
    odd = torch.cat([even, torch.zeros(1, 1, 3, 64, 64)], dim=1)
    scores = [reward(one, [Prompt("")], rng).score for one in (even, odd)]
    assert torch.equal(*scores)
    with pytest.raises(VaderError, match="at least 2 frames"):
        reward(even[:, :1], [Prompt("")], rng)


def test_a_frozen_picture_is_easier_than_noise(reward):
    output = reward(video(4, 2), [Prompt("")] * 2, Randomness(0))
    assert (output.score < 0).all()
    assert torch.equal(output.loss, -output.score)
