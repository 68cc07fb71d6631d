"""Our differentiable pixels against the libraries that the scorers came with."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2
from transformers import CLIPImageProcessor, VJEPA2VideoProcessor
from vader_rewards.preprocessing import (
    centre_cropped,
    clamped,
    clip_pixels,
    clip_processor_pixels,
    cropped_imagenet_pixels,
    detector_pixels,
    imagenet_pixels,
    resized,
    short_side_resized,
)

CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SIZES = [(64, 96), (300, 260), (224, 224), (97, 451), (512, 512)]


def frames(height, width, seed=0):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_squashed_pixels_equal_torchvision(height, width):
    images = frames(height, width)
    expected = v2.Compose([v2.Resize((224, 224), antialias=True), v2.Normalize(**CLIP)])(images)
    assert (clip_pixels(images) - expected).abs().max() <= 1e-5
    expected = v2.Compose([v2.Resize((224, 224), antialias=True), v2.Normalize(**IMAGENET)])(images)
    assert (imagenet_pixels(images, (224, 224)) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_detector_pixels_equal_torchvision(height, width):
    images = frames(height, width)
    size = (512, 512 * width // height)
    expected = v2.Compose([v2.Resize(size, antialias=False), v2.Normalize(**IMAGENET)])(images)
    found = detector_pixels(images)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pick_score_pixels_equal_torchvision(height, width):
    images = frames(height, width)
    bicubic = v2.InterpolationMode.BICUBIC
    steps = [v2.Resize(224, interpolation=bicubic, antialias=True), v2.CenterCrop(224), v2.Normalize(**CLIP)]
    expected = v2.Compose(steps)(images)
    found = clip_processor_pixels(images)
    assert found.shape == expected.shape
    longer = 224 * max(height, width) // min(height, width)
    if longer % 2 == 0:
        # At an odd side torchvision rounds the crop's start to even; VADER takes side // 2 - 112.
        assert (found - expected).abs().max() <= 1e-5


def test_pick_score_pixels_equal_the_processor():
    # 8-bit pixels at a size where nothing is resized: the processor's own rounding plays no part.
    images = (frames(224, 300) * 255).round()
    processor = CLIPImageProcessor(do_resize=False)
    expected = processor([*images.byte()], return_tensors="pt")["pixel_values"]
    assert (clip_processor_pixels(images / 255) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(("height", "width", "within"), [(292, 330, 1e-5), (320, 360, 1.01 / 255 / 0.224)])
def test_vjepa_pixels_equal_the_processor(height, width, within):
    images = (frames(height, width) * 255).round()
    expected = VJEPA2VideoProcessor()(images.byte(), return_tensors="pt")["pixel_values_videos"][0]
    found = cropped_imagenet_pixels(images / 255, 292, 256)
    assert found.shape == expected.shape
    # The processor resizes 8-bit pixels, rounding after each axis: twice half a step, over the deviation.
    assert (found - expected).abs().max() <= within


def test_values_beyond_the_range_are_clamped_without_gradient():
    images = torch.tensor([-0.5, 0.25, 1.5]).view(1, 3, 1, 1).repeat(1, 1, 4, 4).requires_grad_()
    clip_pixels(images, 4).sum().backward()
    assert images.grad[0, 0].abs().max() == 0
    assert images.grad[0, 1].abs().min() > 0
    assert images.grad[0, 2].abs().max() == 0


def test_at_the_ends_of_the_range_there_is_no_gradient_in_any_version_of_torch():
    images = torch.tensor([0.0, 0.25, 1.0]).requires_grad_()
    found = clamped(images)
    assert torch.equal(found, images)
    found.sum().backward()
    assert images.grad.tolist() == [0.0, 1.0, 0.0]
    wild = torch.tensor([-3.0, 2.0, float("nan"), float("inf")])
    assert torch.equal(clamped(wild).nan_to_num(9.0), wild.clamp(0, 1).nan_to_num(9.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_preprocessing_stays_in_float32(dtype):
    images = frames(40, 50)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(clip_pixels(images), clip_pixels(images).float())
        assert clip_pixels(images).dtype == torch.float32
    assert clip_pixels(images.to(dtype)).dtype == torch.float32


def test_crop_takes_the_middle():
    images = torch.arange(7.0).view(1, 1, 1, 7).expand(1, 3, 4, 7)
    assert centre_cropped(images, 4)[0, 0, 0].tolist() == [1, 2, 3, 4]
    assert short_side_resized(frames(40, 61), 20, mode="bilinear").shape[-2:] == (20, 30)
    assert short_side_resized(frames(61, 40), 20, mode="bilinear").shape[-2:] == (30, 20)
    same = frames(8, 8)
    assert resized(same, (8, 8)) is same
