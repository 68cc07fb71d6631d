"""The rewards measure the world, and the judges see it."""

from __future__ import annotations

import pytest
import torch
from vader_demo import world
from vader_demo.captions import MOTIONS, Attributes, split_combinations

from vader_core import Prompt, VaderError
from vader_core.randomness import Randomness
from vader_core.registry import load_registry

RNG = Randomness(0)


def make(name, **options):
    return load_registry().get("reward", name).make(options, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def clips():
    combination = torch.tensor(split_combinations("held_out")[:48])
    factors = world.draw_factors(combination, torch.Generator().manual_seed(9))
    prompts = [Prompt(Attributes(*row).caption) for row in combination.tolist()]
    return factors, world.render(factors), prompts


@pytest.mark.parametrize("twin", ["", "_held_out"])
def test_aesthetic_follows_the_worlds_beauty(clips, twin):
    factors, video, prompts = clips
    score = make(f"demo_aesthetic{twin}")(video, prompts, RNG).score
    assert float((score - world.beauty(factors)).square().mean().sqrt()) < 0.5


def test_aesthetic_dislikes_blur(clips):
    _, video, prompts = clips
    reward = make("demo_aesthetic")
    blurred = torch.nn.functional.avg_pool2d(video.flatten(0, 1), 5, 1, 2).view_as(video)
    assert bool(
        (reward(blurred, prompts, RNG).score < reward(video, prompts, RNG).score).float().mean() > 0.9
    )


@pytest.mark.parametrize("twin", ["", "_held_out"])
def test_alignment_prefers_the_true_caption(clips, twin):
    factors, video, prompts = clips
    reward = make(f"demo_alignment{twin}")
    right = reward(video, prompts, RNG).score
    for place, size in enumerate((8, 8, 6, 10)):
        changed = factors.combination.clone()
        changed[:, place] = (changed[:, place] + 1) % size
        wrong = [Prompt(Attributes(*row).caption) for row in changed.tolist()]
        assert float((reward(video, wrong, RNG).score < right).float().mean()) >= 47 / 48


def test_action_is_the_probability_of_the_wanted_motion(clips):
    factors, video, prompts = clips
    reward = make("demo_action", motion="spinning")
    output = reward(video, prompts, RNG)
    spins = factors.motion == MOTIONS.index("spinning")
    assert bool((output.score[spins] > 0.5).all())
    assert bool((output.score[~spins] < 0.5).all())
    assert torch.allclose(output.loss.exp() * output.score, torch.ones(48), atol=1e-4)


@pytest.mark.parametrize("attribute", ["shape", "colour", "background", "motion"])
def test_judges_see_rendered_clips(clips, attribute):
    _, video, prompts = clips
    assert float(make(f"demo_judge_{attribute}")(video, prompts, RNG).score.mean()) >= 47 / 48
    shuffled = prompts[7:] + prompts[:7]
    assert float(make(f"demo_judge_{attribute}")(video, shuffled, RNG).score.mean()) < 0.5


def test_a_judge_looks_for_the_given_value(clips):
    factors, video, _ = clips
    silent = [Prompt("a ball")] * 48
    score = make("demo_judge_motion", value="rising")(video, silent, RNG).score
    assert torch.equal(score, (factors.motion == MOTIONS.index("rising")).float())
    with pytest.raises(VaderError, match=r"names no motion.*reward\.demo_judge_motion\.value"):
        make("demo_judge_motion")(video, silent, RNG)
    with pytest.raises(VaderError, match="did you mean 'rising'"):
        make("demo_judge_motion", value="risin")


def test_other_sizes_are_brought_to_64(clips):
    _, video, prompts = clips
    large = torch.nn.functional.interpolate(video.flatten(0, 1), size=(96, 96), mode="bilinear").unflatten(
        0, (48, 8)
    )
    reward = make("demo_aesthetic")
    assert torch.allclose(reward(large, prompts, RNG).score, reward(video, prompts, RNG).score, atol=1.0)


def test_alignment_refuses_words_it_does_not_know(clips):
    _, video, _ = clips
    with pytest.raises(VaderError, match="reward 'demo_alignment': the demo model does not know 'dog'"):
        make("demo_alignment")(video[:1], [Prompt("a dog")], RNG)


def test_weights_of_ones_own(tmp_path):
    with pytest.raises(VaderError, match="no such file"):
        make("demo_aesthetic", weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(VaderError, match="make no sense"):
        make("demo_aesthetic", weights="random")
