"""Batches of clips: one that cannot be read is replaced by the next of its bucket; too many end the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vader_core.data.buckets import Buckets
from vader_core.data.frame_rule import FrameRule
from vader_core.data.plan import InBuckets, OneSize
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prompts import Clip, Prompt, Shape
from vader_core.training.video_batches import VideoBatches

GEOMETRY = Geometry(16, 16, 4, 8.0)


class Reader:
    """Gives a clip of its own number; some cannot be read."""

    def __init__(self, broken=()):
        self.broken, self.asked = set(broken), []

    def filled(self, prompt, frames, size, draws, shape):
        pixels = self.read(prompt.video, frames, size, draws)
        return replace(prompt, video=replace(prompt.video, pixels=pixels))

    def read(self, clip, frames, size, draws):
        self.asked.append(int(clip.path))
        if int(clip.path) in self.broken:
            raise VaderError(f"clip {clip.path}: it cannot be read")
        return torch.full((frames, 3, *size), float(clip.path)) + draws.random()


def made(reader, count=10, *, bucketed=False, limit=0.5, said=None, accumulate=1):
    clips = [Prompt(str(n), video=Clip(str(n))) for n in range(count)]
    shapes = [Shape(20, *((144, 256) if n % 2 else (256, 144)), 8.0) for n in range(count)]
    numbers = list(range(1, count + 1))
    rule = FrameRule(interval=1)
    if bucketed:
        buckets = Buckets({"144p": {8: (1.0, 2)}})
        plan = InBuckets(clips, shapes, numbers, rule, buckets=buckets, geometry=GEOMETRY, seed=0)
    else:
        plan = OneSize(clips, shapes, numbers, rule, geometry=GEOMETRY, batch_size=2, seed=0)
    return VideoBatches(
        plan,
        reader,
        size_of=lambda geometry: (geometry.height, geometry.width),
        finished=lambda prompts: [replace(prompt, negative="none") for prompt in prompts],
        seed=0,
        accumulate=accumulate,
        workers=2,
        limit=limit,
        say=(said if said is not None else []).append,
    )


def texts(batch):
    return [prompt.text for prompt in batch["videos"].prompts]


def test_a_batch_has_pixels_and_its_own_random_numbers():
    batches = made(Reader(), accumulate=2)
    batch = batches.at(3, 1, 0, 1)["videos"]
    assert batch.rng.samples == (14, 15)
    assert (batch.rng.step, batch.rng.micro_step) == (3, 1)
    assert batch.geometry == GEOMETRY
    for prompt in batch.prompts:
        assert prompt.negative == "none"
        assert prompt.video.pixels.shape == (4, 3, 16, 16)
        assert int(prompt.video.pixels.flatten()[0]) == int(prompt.text)


def test_any_order_of_asking_gives_the_same():
    whole = [made(Reader()).at(step, 0, 0, 1)["videos"] for step in range(6)]
    in_turn = made(Reader())
    for step in (0, 1, 2, 3, 4, 5, 2, 0):
        batch = in_turn.at(step, 0, 0, 1)["videos"]
        assert [prompt.text for prompt in batch.prompts] == [prompt.text for prompt in whole[step].prompts]
        for one, other in zip(batch.prompts, whole[step].prompts, strict=True):
            assert torch.equal(one.video.pixels, other.video.pixels)


@pytest.mark.parametrize("bucketed", [False, True])
def test_an_unreadable_clip_is_replaced_by_the_next_of_its_bucket(bucketed):
    said = []
    good = [texts(made(Reader(), bucketed=bucketed).at(step, 0, 0, 1)) for step in range(5)]
    batches = made(Reader(broken={3}), bucketed=bucketed, said=said)
    found = [batches.at(step, 0, 0, 1) for step in range(5)]
    for before, batch in zip(good, found, strict=True):
        now = texts(batch)
        assert "3" not in now
        assert [two for one, two in zip(before, now, strict=True) if one != "3"] == [
            t for t in before if t != "3"
        ]
        if bucketed:
            assert len({int(text) % 2 for text in now}) == 1
    assert said == ["passed over: row 4, clip 3: it cannot be read"]
    assert batches.unreadable == {3: "clip 3: it cannot be read"}


def run(batches, steps):
    for step in range(steps):
        batches.at(step, 0, 0, 1)


def test_too_many_end_the_run():
    batches = made(Reader(broken={1, 2, 3, 4}), limit=0.2)
    with pytest.raises(VaderError, match=r"of 10 clips could not be read while training.*data\.check=true"):
        run(batches, 10)


def test_a_bucket_of_broken_clips_ends_the_run():
    batches = made(Reader(broken=range(10)), limit=1.0)
    with pytest.raises(VaderError, match="none of the 10 clips of 16x16"):
        batches.at(0, 0, 0, 1)


def test_clips_are_read_while_the_model_works():
    reader = Reader()
    batches = made(reader)
    batches.at(0, 0, 0, 1)
    for future in [future for futures in batches._waiting.values() for future in futures]:
        future.result()
    # two batches of two clips lie ready beside the first
    assert len(reader.asked) == 6
    batches.at(1, 0, 0, 1)
    assert len(batches._waiting) == 2
