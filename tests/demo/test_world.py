"""The renderer draws what its factors say."""

from __future__ import annotations

import pytest
import torch
from vader_demo import world
from vader_demo.captions import ATTRIBUTES, MOTIONS, SHAPES, combinations


def draw(count=64, seed=0, **given):
    generator = torch.Generator().manual_seed(seed)
    pool = torch.tensor(combinations())
    factors = world.draw_factors(world.draw_combinations(pool, count, generator), generator)
    for name, value in given.items():
        like = getattr(factors, name)
        setattr(factors, name, torch.full_like(like, value))
    return factors


def body(factors):
    """Where the shape is: [b, f, H, W], from the same clip with the shape in other colours."""
    one, other = draw_colours(factors, 0), draw_colours(factors, 5)
    return (one - other).abs().amax(2) > 0.05


def draw_colours(factors, colour):
    factors.colour = torch.full_like(factors.colour, colour)
    return world.render(factors)


def centre(mask):
    axis = torch.arange(world.SIZE, dtype=torch.float32)
    weight = mask.float()
    total = weight.sum((2, 3))
    return (weight.sum(2) * axis).sum(2) / total, (weight.sum(3) * axis).sum(2) / total


def test_clips_are_in_range_and_the_same_for_the_same_seed():
    video = world.render(draw())
    assert video.shape == (64, 8, 3, 64, 64)
    assert video.dtype == torch.float32
    assert 0 <= float(video.min()) < float(video.max()) <= 1
    assert torch.equal(video, world.render(draw()))
    assert not torch.equal(video, world.render(draw(seed=1)))


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("moving left", 0, -1), ("moving right", 0, 1), ("rising", 1, -1), ("falling", 1, 1)],
)
def test_straight_motions_go_their_way(motion, axis, sign):
    place = centre(body(draw(motion=MOTIONS.index(motion), size=0.0)))
    # A ragged edge may keep still where the shape leaves the picture, so the way is measured end to end.
    assert bool((sign * (place[axis][:, -1] - place[axis][:, 0]) > 15).all())
    assert float((place[1 - axis][:, -1] - place[1 - axis][:, 0]).abs().max()) < 3


def test_growing_and_shrinking():
    for motion, sign in (("growing", 1), ("shrinking", -1)):
        area = body(draw(motion=MOTIONS.index(motion), x=0.5, y=0.5)).float().sum((2, 3))
        assert bool((sign * area.diff(dim=1) > 0).all())


def test_spinning_turns_in_place_and_standing_still_does_not_move():
    still = world.render(draw(motion=MOTIONS.index("standing still")))
    assert torch.equal(still, still[:, :1].expand_as(still))
    spinning = world.render(draw(motion=MOTIONS.index("spinning")))
    assert bool(((spinning[:, 0] - spinning[:, 2]).abs().amax((1, 2, 3)) > 0.02).all())


def test_circling_keeps_its_distance_from_the_middle_of_its_way():
    factors = draw(
        motion=MOTIONS.index("circling"), shape=SHAPES.index("ball"), x=0.5, y=0.5, size=0.0, speed=0.0
    )
    across, down = centre(body(factors))
    assert torch.hypot(across - 31.5, down - 31.5) == pytest.approx(torch.full((64, 8), 10.0), abs=0.7)


def test_each_shape_is_its_own():
    masks = [
        body(draw(1, shape=index, motion=9, x=0.5, y=0.5, turn=0.5, size=0.5))[0, 0] for index in range(8)
    ]
    for index, mask in enumerate(masks):
        assert 150 < int(mask.sum()) < 700
        for other in masks[index + 1 :]:
            shared = (mask & other).sum() / (mask | other).sum()
            assert float(shared) < 0.93


def test_beauty_weighs_the_hidden_factors():
    assert sum(world.BEAUTY.values()) == pytest.approx(1)
    assert float(world.beauty(draw(1, vividness=1.0, outline=1.0, sunlight=1.0))) == pytest.approx(10)
    assert float(world.beauty(draw(1, vividness=0.5, outline=0.0, sunlight=0.0))) == pytest.approx(2)


def test_hidden_factors_show():
    def colourfulness(video):
        return (video.amax(2) - video.amin(2)).mean()

    plain = {"outline": 0.0, "sunlight": 0.0, "vividness": 0.0}
    dull, vivid = (world.render(draw(**{**plain, "vividness": value})) for value in (0.0, 1.0))
    assert colourfulness(vivid) > 1.5 * colourfulness(dull)
    dark, sunlit = (world.render(draw(**{**plain, "sunlight": value})) for value in (0.0, 1.0))
    corner = (sunlit - dark)[:, :, 0, :8, :8]
    assert float((sunlit - dark)[:, :, :, -8:, -8:].abs().max()) == 0
    assert float(corner.mean()) > 0.2


def test_dullness_skews_the_hidden_factors():
    generator = torch.Generator().manual_seed(0)
    named = torch.zeros(4000, len(ATTRIBUTES), dtype=torch.int64)
    skewed = world.draw_factors(named, generator, dullness=2.0)
    assert float(world.beauty(skewed).mean()) == pytest.approx(10 / 3, abs=0.1)
