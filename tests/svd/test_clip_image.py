"""The resize and normalisation before CLIP, against diffusers' own and transformers' processor."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)
from transformers import CLIPImageProcessor
from vader_svd.clip_image import CLIP_MEAN, CLIP_STD, blur_kernel, clip_pixels, resize_antialiased


@pytest.mark.parametrize("shape", [(32, 48), (224, 224), (300, 500), (576, 1024), (225, 1300)])
def test_the_resize_is_the_published_one(shape):
    image = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs = _resize_with_antialiasing(image, (224, 224))
    torch.testing.assert_close(resize_antialiased(image, 224), theirs, atol=1e-5, rtol=0)


def test_the_normalisation_is_the_processors():
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    processor = CLIPImageProcessor(image_mean=CLIP_MEAN, image_std=CLIP_STD)
    theirs = processor(
        images=image, do_resize=False, do_center_crop=False, do_rescale=False, return_tensors="pt"
    ).pixel_values
    torch.testing.assert_close(clip_pixels(image, 224), theirs, atol=1e-4, rtol=0)
    defaults = CLIPImageProcessor()
    assert tuple(defaults.image_mean) == CLIP_MEAN
    assert tuple(defaults.image_std) == CLIP_STD


@pytest.mark.parametrize(("length", "size"), [(224, 3), (448, 3), (576, 3), (1024, 7), (1300, 9)])
def test_the_kernel_grows_with_the_shrink(length, size):
    kernel = blur_kernel(length, 224)
    assert kernel.numel() == size
    assert kernel.sum().item() == pytest.approx(1)
    assert torch.equal(kernel, kernel.flip(0))


def test_the_gradient_is_the_derivative():
    image = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    direction = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((clip_pixels(image, 16) * direction).sum(), image)
    step = torch.randn(image.shape, generator=torch.Generator().manual_seed(4))
    # The resize is linear, so a difference of any size is exact up to rounding.
    with torch.no_grad():
        change = ((clip_pixels(image + step, 16) - clip_pixels(image, 16)) * direction).sum()
    torch.testing.assert_close((gradient * step).sum(), change, rtol=1e-3, atol=1e-3)
