"""Many videos, many prompts, three precisions."""

from __future__ import annotations

import pytest
import torch
from reward_classes import reward_class
from vader_rewards.plugin import REWARDS

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness

TINY = {"weights": "random", "architecture": "tiny"}
OPTIONS = {
    "aesthetic_hps": {"aesthetic": TINY, "hps": TINY},
    "jpeg_size": {},
    "temporal_flickering": {},
    "dynamic_degree": {"weights": "random"},
    "object_detection": {**TINY, "mode": "encourage", "object": "dog"},
}
VARIANTS = {name: (name, OPTIONS.get(name, TINY)) for name in REWARDS if name != "http"} | {
    "object_detection_removing": ("object_detection", {**TINY, "threshold": 0.001}),
    "object_detection_grounding_dino": (
        "object_detection",
        {**TINY, "detector": "grounding_dino_tiny", "threshold": 0.1},
    ),
}
PROMPTS = [
    Prompt("a dog surfing water", metadata={"object": "dog"}),
    Prompt("a cat on a piano", metadata={"label": "playing piano", "object": "cat"}),
    Prompt("someone jogging at night"),
    Prompt("a raccoon in a red coat riding a bike", metadata={"object": "bicycle"}),
]


def make(variant, dtype=torch.float32):
    name, given = VARIANTS[variant]
    module, cls, config, _ = REWARDS[name]
    reward = reward_class(module, cls)(config(**given), device=torch.device("cpu"), dtype=dtype)
    if name == "object_detection" and "detector" not in given:
        # A random detector has no opinions: every class is as likely as every other. This one has.
        for layer in reward.detector.model.class_labels_classifier.layers:
            layer.weight.data.mul_(2)
    return reward


def videos(batch=4, frames=2):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, frames, 3, 40, 56, generator=generator) * 1.2 - 0.1


@torch.no_grad()
def what_is_seen(reward, video):
    """Prompts whose object is there to be removed: the class that most boxes of each video show."""
    logits = reward.detector.model(pixel_values=reward.pixels(video.flatten(0, 1))).logits
    best = logits[..., :-1].argmax(dim=-1).view(len(video), -1)
    return [Prompt("", metadata={"object": str(row.mode().values.item())}) for row in best]


@pytest.mark.slow_cases("dynamic_degree", "*dino")
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_four_videos_and_prompts_score_as_four_alone(variant):
    reward, video = make(variant), videos(frames=1 if "dino" in variant else 2)
    removing = variant == "object_detection_removing"
    prompts = what_is_seen(reward, video) if removing else PROMPTS
    together = reward(video, prompts, Randomness(7, samples=(0, 1, 2, 3)))
    for row in range(4):
        alone = reward(video[row : row + 1], prompts[row : row + 1], Randomness(7, samples=(row,)))
        torch.testing.assert_close(alone.score[0], together.score[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.loss[0], together.loss[row], rtol=1e-5, atol=1e-5)
    assert together.score.dtype == together.loss.dtype == torch.float32
    assert not removing or together.loss.min() > 0


@pytest.mark.parametrize("variant", ["hps", "pick_score", "viclip", "aesthetic_hps", "actpred"])
def test_every_video_is_scored_against_its_own_prompt(variant):
    reward, video = make(variant), videos(1).expand(4, -1, -1, -1, -1)
    scores = reward(video, PROMPTS, Randomness(0)).score
    assert len({round(float(score), 6) for score in scores}) == 4


#: Without a gradient.
BLACK_BOXES = {"jpeg_size", "dynamic_degree", "http"}


@pytest.mark.quick_cases(
    "hps-*bfloat16",
    "aesthetic-*bfloat16",
    "vjepa-*bfloat16",
    "actpred-*bfloat16",
    "compression-*bfloat16",
    "mps-*bfloat16",
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", sorted(set(REWARDS) - BLACK_BOXES))
def test_half_precision_keeps_score_and_gradient(variant, dtype):
    results = []
    for precision in (torch.float32, dtype):
        video = videos(2).requires_grad_()
        output = make(variant, precision)(video, PROMPTS[1:3], Randomness(0))
        # As small as a long run's: it would vanish in float16 if nothing were done about it.
        (gradient,) = torch.autograd.grad(1e-3 * output.loss.mean(), video)
        results.append((output.score.detach(), gradient))
    (score, gradient), (half_score, half_gradient) = results
    assert half_score.dtype == torch.float32
    # The mix multiplies the cosine's error by 15 / 2; ImageReward counts in standard deviations.
    tolerance = 0.01 * {"aesthetic_hps": 7.5, "image_reward": 3.0}.get(variant, 1.0)
    assert ((half_score - score).abs() / score.abs().clamp(min=1)).max() <= tolerance
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), half_gradient.flatten(), dim=0)
    assert cosine >= 0.97
    assert half_gradient.norm() == pytest.approx(float(gradient.norm()), rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_callers_autocast_is_respected(dtype):
    video = videos(2)
    reward = make("hps")
    expected = reward(video, PROMPTS[:2], Randomness(0)).score
    with torch.autocast("cpu", dtype=dtype):
        found = reward(video, PROMPTS[:2], Randomness(0)).score
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() <= 0.02


@pytest.mark.parametrize("name", ["hps", "pick_score"])
def test_upstream_reproduces_the_batch_mistakes(name):
    module, cls, config, _ = REWARDS[name]
    reward = reward_class(module, cls)(
        config(**TINY, upstream=True), device=torch.device("cpu"), dtype=torch.float32
    )
    right, video = make(name), videos(2)
    found = reward(video, PROMPTS[:2], Randomness(0)).score
    if name == "hps":
        flat = video.flatten(0, 1)[:2]
        expected = right(flat[:, None], PROMPTS[:2], Randomness(0)).score
    else:
        expected = right(video, PROMPTS[:1] * 2, Randomness(0)).score
    torch.testing.assert_close(found, expected)
    assert (found - right(video, PROMPTS[:2], Randomness(0)).score).abs().max() > 1e-4


def test_compression_is_a_size_that_goes_down():
    reward = make("compression")
    module, cls, config, _ = REWARDS["compression"]
    theirs = reward_class(module, cls)(
        config(**TINY, upstream=True), device=torch.device("cpu"), dtype=torch.float32
    )
    ours, upstream = (one(videos(1), PROMPTS[:1], Randomness(0)) for one in (reward, theirs))
    assert torch.equal(ours.score, -upstream.score)
    assert torch.equal(ours.loss, upstream.loss)
    assert torch.equal(ours.loss, -ours.score)


def test_jpeg_size_is_the_size_of_the_file():
    reward = make("jpeg_size")
    noise, flat = videos(1, 1), torch.full((1, 1, 3, 40, 56), 0.5)
    scores = [float(reward(video, PROMPTS[:1], Randomness(0)).score) for video in (noise, flat)]
    assert scores[0] < scores[1] < 0
    assert not reward.differentiable


def test_targets():
    for target, expected in ((10.0, lambda s: 0.1 * (s - 10).abs()), (None, lambda s: -0.1 * s)):
        module, cls, config, _ = REWARDS["aesthetic"]
        reward = reward_class(module, cls)(
            config(**TINY, target=target), device=torch.device("cpu"), dtype=torch.float32
        )
        output = reward(videos(2, 1), PROMPTS[:2], Randomness(0))
        torch.testing.assert_close(output.loss, expected(output.score))
