"""VBench's monitors against its formulas, written out, and against transformers' own classes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from vader_rewards.consistency import (
    DINO_PRESETS,
    BackgroundConsistency,
    SubjectConsistency,
    TemporalFlickering,
    over_time,
)
from vader_rewards.dynamic_degree import LEAST_SIDE, DynamicDegree, padded, unpadded
from vader_rewards.options import (
    BackgroundConsistencyOptions,
    DynamicDegreeOptions,
    FlickeringOptions,
    SubjectConsistencyOptions,
)

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.testing.rewards import moving_patterns

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
TINY = {"weights": "random", "architecture": "tiny"}


def scored(reward, video):
    return reward(video, [Prompt("a boat")] * len(video), Randomness(0)).score


def test_over_time_is_vbenchs_loop():
    features = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    for row, found in zip(features, over_time(features), strict=True):
        total = 0.0
        for i in range(1, 5):
            before = max(0.0, F.cosine_similarity(row[i - 1], row[i], dim=0).item())
            first = max(0.0, F.cosine_similarity(row[0], row[i], dim=0).item())
            total += (before + first) / 2
        assert float(found) == pytest.approx(total / 4, abs=1e-6)


def test_subject_features_are_transformers_class_tokens_after_torchvisions_resize():
    from torchvision.transforms.functional import normalize, resize
    from transformers import ViTConfig, ViTModel

    reward = SubjectConsistency(SubjectConsistencyOptions(**TINY), **CPU)
    theirs = ViTModel(ViTConfig(**DINO_PRESETS["tiny"]), add_pooling_layer=False).eval()
    theirs.load_state_dict(reward.model.state_dict())
    frames = torch.rand(3, 3, 80, 120, generator=torch.Generator().manual_seed(1))
    pixels = resize(frames, 64, antialias=False)[..., :64, :96]
    pixels = normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(reward.pixels(frames), pixels, rtol=0, atol=1e-5)
    with torch.no_grad():
        wanted = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        torch.testing.assert_close(reward.encode(pixels), wanted)


def test_background_pixels_are_torchvisions():
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, normalize, resize

    reward = BackgroundConsistency(BackgroundConsistencyOptions(**TINY), **CPU)
    frames = torch.rand(2, 3, 240, 320, generator=torch.Generator().manual_seed(1))
    wanted = resize(frames, 224, interpolation=InterpolationMode.BICUBIC, antialias=False)
    wanted = normalize(
        center_crop(wanted, 224), (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )
    torch.testing.assert_close(reward.pixels(frames), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(SubjectConsistency, SubjectConsistencyOptions), (BackgroundConsistency, BackgroundConsistencyOptions)],
)
def test_a_still_video_is_wholly_consistent(kind, options):
    reward = kind(options(**TINY), **CPU)
    still = torch.rand(1, 1, 3, 48, 64).expand(1, 4, 3, 48, 64)
    assert float(scored(reward, still)) == pytest.approx(1.0, abs=1e-5)
    assert float(scored(reward, torch.rand(1, 4, 3, 48, 64))) < 1.0 - 1e-5


def test_flickering_is_255_minus_the_mean_difference():
    video = (torch.rand(2, 4, 3, 20, 30, generator=torch.Generator().manual_seed(2)) * 255).round() / 255
    bytes_of = video * 255
    wanted = [
        (255 - sum(float((one[i + 1] - one[i]).abs().mean()) for i in range(3)) / 3) / 255 for one in bytes_of
    ]
    found = scored(TemporalFlickering(FlickeringOptions(), **CPU), video)
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_padding_for_raft_is_undone():
    flow = torch.rand(1, 2, 52, 141)
    frames = padded(flow[:, :1].expand(1, 3, 52, 141))
    assert frames.shape[-2:] == (LEAST_SIDE, 144)
    assert torch.equal(unpadded(frames, 52, 141)[:, :1], flow[:, :1])


def test_dynamic_degree_is_the_fastest_share_over_the_threshold(monkeypatch):
    reward = DynamicDegree(DynamicDegreeOptions(weights="random"), **CPU)
    exact = DynamicDegree(DynamicDegreeOptions(weights="random", upstream=True), **CPU)

    def flow(first, second, num_flow_updates):
        assert num_flow_updates == 20
        found = torch.zeros(len(first), 2, *first.shape[-2:])
        found[:, 0, :, : first.shape[-1] // 2] = 3.0  # half of the picture moves by (3, 4): 5 pixels
        found[:, 1, :, : first.shape[-1] // 2] = 4.0
        return [found]

    monkeypatch.setattr(reward, "model", flow)
    monkeypatch.setattr(exact, "model", flow)
    video = moving_patterns(1, 4, 128, 128)
    assert float(scored(reward, video)) == pytest.approx(5.0 / 3.0)  # 6 pixels per 256 are 3 per 128
    assert float(scored(exact, video)) == 1.0
    slow = moving_patterns(1, 4, 256, 256)
    assert float(scored(reward, slow)) == pytest.approx(5.0 / 6.0)
    assert float(scored(exact, slow)) == 0.0


def test_raft_is_torchvisions():
    from torchvision.models.optical_flow import raft_large

    reward = DynamicDegree(DynamicDegreeOptions(weights="random"), **CPU)
    theirs = raft_large().eval()
    theirs.load_state_dict(reward.model.state_dict())
    assert not any(value.requires_grad for value in reward.model.parameters())
