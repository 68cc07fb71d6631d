"""The look that the demo model is taught: clips to learn from, and a measure of it."""

from __future__ import annotations

import pytest
import torch
from vader_demo.options import DemoStyleConfig, RewardConfig
from vader_demo.rewards import DemoAlignment
from vader_demo.style import (
    BORDER,
    PAPER,
    DemoPostcard,
    DemoPostcardAlignment,
    DemoStyle,
    border,
    framed,
)
from vader_demo.world import FRAMES, SIZE

from vader_core.prompts import Prompt, Shape
from vader_core.randomness import Randomness


@pytest.fixture(scope="module")
def style():
    return DemoStyle(DemoStyleConfig(count=6))


def test_every_clip_is_framed(style):
    clips = style.clips()
    assert len({prompt.text for prompt in clips}) == len(clips) == 6
    assert style.shapes() == [Shape(FRAMES, SIZE, SIZE, 8.0)] * 6
    for prompt in clips:
        video = prompt.video.pixels
        assert video.shape == (FRAMES, 3, SIZE, SIZE)
        edge = video[:, :, border(SIZE, SIZE)]
        assert torch.equal(edge, torch.tensor(PAPER).view(3, 1).expand_as(edge))
        inside = video[:, :, BORDER:-BORDER, BORDER:-BORDER]
        assert float(inside.std()) > 0.01


def test_what_is_learned_and_what_is_judged_are_apart(style):
    assert not {prompt.text for prompt in style.clips()} & {prompt.text for prompt in style.all()}
    again = DemoStyle(DemoStyleConfig(count=6))
    assert torch.equal(again.clips()[3].video.pixels, style.clips()[3].video.pixels)
    other = DemoStyle(DemoStyleConfig(count=6, seed=1))
    assert [prompt.text for prompt in other.clips()] != [prompt.text for prompt in style.clips()]
    assert [prompt.text for prompt in style.draw(range(6), seed=2)] == [
        prompt.text for prompt in again.draw(range(6), seed=2)
    ]


def test_the_measure_of_the_look():
    video = torch.rand(2, 3, 3, 32, 48, requires_grad=True)
    reward = DemoPostcard()
    rng = Randomness(0, samples=(0, 1))
    plain = reward(video, [Prompt("x")] * 2, rng).score
    postcards = reward(framed(video), [Prompt("x")] * 2, rng).score
    assert torch.allclose(postcards, torch.ones(2))
    assert bool((plain < 0.8).all())
    plain.sum().backward()
    assert float(video.grad[..., BORDER:-BORDER, BORDER:-BORDER].abs().sum()) == 0
    assert float(video.grad.abs().sum()) > 0


def test_inside_the_frame_the_caption_still_holds(style):
    clips, rng = style.clips(), Randomness(0, samples=tuple(range(6)))
    video = torch.stack([prompt.video.pixels for prompt in clips])
    options = {"device": torch.device("cpu"), "dtype": torch.float32}
    inside = DemoPostcardAlignment(RewardConfig(), **options)(video, clips, rng).score.mean()
    framed_too = DemoAlignment(RewardConfig(), **options)(video, clips, rng).score.mean()
    assert float(inside) > 0.75
    assert float(inside) > float(framed_too) + 0.1


def test_the_recipe_names_what_is_there():
    from vader_core.api.configure import configure
    from vader_core.api.plan import plan

    facts = plan(configure(recipe="demo_style", trainer={"device": "cpu"}))
    assert facts["objective"] == "supervised x 1"
    assert facts["data"]["learned"] == 96
