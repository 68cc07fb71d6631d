"""Clips as gif and webm: the same frames, pace and words as the mp4."""

from __future__ import annotations

import json

import av
import pytest
import torch
from PIL import Image

from vader_core.clip_forms import FORMS, convert
from vader_core.errors import VaderError
from vader_core.video import read_video, write_video


@pytest.fixture
def clip(tmp_path):
    ramp = torch.linspace(0, 1, 64)
    frames = torch.stack(
        [
            torch.stack([ramp.expand(48, 64), torch.full((48, 64), n / 7), 1 - ramp.expand(48, 64)])
            for n in range(8)
        ]
    )
    path = tmp_path / "clip.mp4"
    write_video(frames, path, 8, {"title": "a ramp", "comment": json.dumps({"seed": 7})})
    return path


@pytest.mark.parametrize("form", FORMS)
def test_the_frames_are_those_of_the_mp4(clip, form):
    path = convert(clip, clip.with_suffix(f".{form}"))
    want, found = read_video(clip), read_video(path)
    assert found.shape == want.shape == (8, 3, 48, 64)
    assert (found - want).abs().mean() < 0.02
    still = (found - want[:1]).abs().mean((1, 2, 3))
    assert still[7] > still[3] > still[0]  # the order is kept


def test_a_gif_has_the_pace_and_the_words_of_the_mp4(clip):
    with Image.open(convert(clip, clip.with_suffix(".gif"))) as found:
        assert found.n_frames == 8
        assert found.info["duration"] == 120  # of 125 ms, in a gif's hundredths of a second
        assert found.info["loop"] == 0
        assert json.loads(found.info["comment"]) == {"seed": 7}


def test_a_webm_has_the_pace_and_the_words_of_the_mp4(clip):
    with av.open(str(convert(clip, clip.with_suffix(".webm")))) as found:
        assert found.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
        assert found.streams.video[0].average_rate == 8
        words = {key.lower(): value for key, value in found.metadata.items()}
        assert (words["title"], json.loads(words["comment"])) == ("a ramp", {"seed": 7})


def test_a_form_that_is_none_is_named_and_leaves_nothing(clip):
    with pytest.raises(VaderError, match="'avi' is no form of a clip: use gif or webm"):
        convert(clip, clip.with_suffix(".avi"))
    wrong = clip.parent / "words.mp4"
    wrong.write_bytes(b"not a film")
    with pytest.raises(VaderError, match="cannot be read"):
        convert(wrong, wrong.with_suffix(".gif"))
    assert [path.name for path in sorted(clip.parent.iterdir())] == ["clip.mp4", "words.mp4"]
