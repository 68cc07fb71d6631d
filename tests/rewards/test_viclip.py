"""ViCLIP's towers against open_clip's, where the two are the same network."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP
from vader_rewards.clip_towers import clip_tokens
from vader_rewards.options import ViclipOptions
from vader_rewards.viclip import PRESETS, Viclip
from vader_rewards.viclip_model import ViClip

TEXT = {"vocab_size": 49408, "context_length": 32, "width": 32, "layers": 2, "heads": 4}
VISION = {"image_size": 64, "patch_size": 32, "width": 32, "layers": 2, "heads": 4, "num_frames": 8}


@pytest.fixture(scope="module")
def pair():
    """One set of weights in both, ours without any position in time."""
    torch.manual_seed(0)
    theirs = CLIP(
        24,
        {"image_size": 64, "patch_size": 32, "width": 32, "layers": 2, "head_width": 8},
        TEXT,
        quick_gelu=True,
    ).eval()
    ours = ViClip(embed_dim=24, vision=VISION, text=TEXT).eval()
    weights = theirs.state_dict()
    mapped = {"temp": ours.temp.data, "vision_encoder.temporal_positional_embedding": torch.zeros(1, 8, 32)}
    for name, value in weights.items():
        if name == "logit_scale":
            continue
        side = (
            "vision_encoder." + name.removeprefix("visual.")
            if name.startswith("visual.")
            else f"text_encoder.{name}"
        )
        mapped[side] = value.unsqueeze(2) if name == "visual.conv1.weight" else value
    ours.load_state_dict(mapped, strict=True)
    return ours, theirs


def test_one_frame_is_a_clip_image(pair):
    ours, theirs = pair
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.encode_image(images)
        torch.testing.assert_close(ours.vision_encoder(images[:, None]), expected, rtol=1e-4, atol=1e-5)


def test_text_is_a_clip_text_of_at_most_32_tokens(pair):
    ours, theirs = pair
    tokens = clip_tokens(["a cat playing the piano", "dogs", "word " * 60], 32)
    assert tokens.shape == (3, 32)
    assert tokens[2, -1] == 49407
    with torch.no_grad():
        torch.testing.assert_close(
            ours.text_encoder(tokens), theirs.encode_text(tokens), rtol=1e-4, atol=1e-5
        )


def test_time_matters_only_through_the_temporal_positions(pair):
    ours, _ = pair
    clip = torch.randn(1, 8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first, turned = ours.vision_encoder(clip), ours.vision_encoder(clip.flip(1))
        torch.testing.assert_close(first, turned, rtol=1e-4, atol=1e-5)
        table = ours.vision_encoder.temporal_positional_embedding
        table.normal_(generator=torch.Generator().manual_seed(2))
        assert (ours.vision_encoder(clip) - ours.vision_encoder(clip.flip(1))).abs().max() > 1e-3
        table.zero_()


def test_full_size_has_the_published_size():
    with torch.device("meta"):
        model = ViClip(**PRESETS["full"])
    vision = sum(value.numel() for value in model.vision_encoder.parameters())
    # CLIP ViT-L/14's image tower has 303,966,208 parameters; ViCLIP adds 8 temporal positions of 1024.
    assert vision == 303_966_208 + 8 * 1024


def test_frames_are_taken_at_an_even_stride():
    options = ViclipOptions(weights="random", architecture="tiny")
    reward = Viclip(options, device=torch.device("cpu"), dtype=torch.float32)
    video = torch.linspace(0, 1, 20).view(1, 20, 1, 1, 1).expand(1, 20, 3, 64, 64)
    pixels = reward.pixels(video)
    assert pixels.shape == (1, 8, 3, 64, 64)
    torch.testing.assert_close(pixels, reward.pixels(video[:, :16:2]))
    assert reward.pixels(video[:, :5]).shape[1] == 5
