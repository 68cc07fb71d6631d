"""Actions: which class a prompt asks for, clips of any length, old checkpoints."""

from __future__ import annotations

import pytest
import torch
from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table
from vader_rewards.actpred import Actpred, current_names, position_table
from vader_rewards.labels import label_in_text
from vader_rewards.options import ActpredOptions

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness


def make(**given):
    options = ActpredOptions(weights="random", architecture="tiny", **given)
    return Actpred(options, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def reward():
    return make()


def test_the_class_comes_from_metadata_then_the_option_then_the_text(reward):
    assert reward.target(Prompt("A bear, playing piano!")) == 1
    assert reward.target(Prompt("A bear, playing piano!", metadata={"label": "Jogging"})) == 0
    assert reward.target(Prompt("", metadata={"label": 3})) == 3
    fixed = make(label="riding a bike")
    assert fixed.target(Prompt("playing piano")) == 2
    assert fixed.target(Prompt("", metadata={"label": "jogging"})) == 0
    assert make(label="3").target(Prompt("")) == 3


def test_a_prompt_without_an_action_is_an_error(reward):
    with pytest.raises(VaderError, match="names none of the 4 actions"):
        reward.target(Prompt("a cat"))
    with pytest.raises(VaderError, match="did you mean 'jogging'"):
        reward.target(Prompt("", metadata={"label": "joging"}))


def test_whole_words_and_the_longest_name_win():
    labels = {0: "playing", 1: "playing piano", 2: "eating"}
    assert label_in_text("someone is PLAYING piano", labels) == 1
    assert label_in_text("playing-piano", labels) == 1
    assert label_in_text("beating eggs", labels) is None


def test_score_is_the_probability_and_loss_the_cross_entropy(reward):
    video = torch.rand(2, 4, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    prompts = [Prompt("jogging"), Prompt("surfing water")]
    output = reward(video, prompts, Randomness(0))
    probabilities = reward.logits(reward.pixels(video)).softmax(-1)
    torch.testing.assert_close(output.score, torch.stack([probabilities[0, 0], probabilities[1, 3]]))
    torch.testing.assert_close(output.loss, -output.score.log())


@pytest.mark.parametrize("frames", [2, 6, 8])
def test_any_even_number_of_frames(reward, frames):
    video = torch.rand(1, frames, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    score = reward(video, [Prompt("jogging")], Randomness(0)).score
    odd = torch.cat([video, torch.zeros(1, 1, 3, 40, 56)], dim=1)
    assert torch.equal(reward(odd, [Prompt("jogging")], Randomness(0)).score, score)


def test_one_frame_is_refused(reward):
    with pytest.raises(VaderError, match="at least 2 frames"):
        reward(torch.rand(1, 1, 3, 8, 8), [Prompt("jogging")], Randomness(0))


def test_positions_equal_transformers():
    torch.testing.assert_close(position_table(40, 32), get_sinusoid_encoding_table(40, 32), rtol=0, atol=1e-6)


def test_old_key_names():
    old = {
        "a.attention.q_bias": torch.zeros(1),
        "a.attention.v_bias": torch.ones(1),
        "b.weight": torch.zeros(2),
    }
    assert set(current_names(old)) == {"a.attention.query.bias", "a.attention.value.bias", "b.weight"}


def test_num_frames_option():
    assert make().frames.count is None
    assert make().frames.minimum == 2
    assert make(num_frames=12).frames.count == 12
