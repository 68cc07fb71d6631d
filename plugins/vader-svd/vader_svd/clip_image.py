"""An image as the CLIP encoder of Stable Video Diffusion expects it, differentiably.

The model was trained on a resize of its own: a Gaussian blur whose width follows the shrink factor, then
bicubic interpolation with aligned corners, both on values in [-1, 1]. Any other resize shifts the embedding.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

#: OpenAI CLIP's channel statistics, as in the `feature_extractor` of the published model.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

#: Below this blur width (pixels) the kernel is a single one: the image is not shrunk.
MIN_BLUR_SIGMA = 0.001
MIN_KERNEL_SIZE = 3


def blur_kernel(length: int, target: int, *, device: torch.device | str = "cpu") -> Float[Tensor, " k"]:
    """The Gaussian that keeps a shrink of one axis from aliasing.

    Its width is ``(length / target - 1) / 2`` pixels, as in scikit-image; it reaches two of them to each
    side.

    Args:
        length: Pixels before the resize.
        target: Pixels after it.
        device: Where the kernel lives.

    Returns:
        An odd number of float32 weights that sum to 1.

    >>> blur_kernel(224, 224).tolist()
    [0.0, 1.0, 0.0]
    """
    sigma = max((length / target - 1.0) / 2.0, MIN_BLUR_SIGMA)
    size = int(max(4.0 * sigma, MIN_KERNEL_SIZE)) | 1
    offsets = torch.arange(size, device=device, dtype=torch.float32) - size // 2
    weights = torch.exp(-(offsets**2) / (2 * torch.tensor(sigma, device=device) ** 2))
    return weights / weights.sum()


def blur_axis(
    images: Float[Tensor, "b c H W"], kernel: Float[Tensor, " k"], axis: int
) -> Float[Tensor, "b c H W"]:
    """Convolve every row (``axis=3``) or column (``axis=2``) with ``kernel``; borders are mirrored."""
    reach = kernel.numel() // 2
    channels = images.shape[1]
    padding, shape = ((reach, reach, 0, 0), (1, -1)) if axis == 3 else ((0, 0, reach, reach), (-1, 1))
    weight = kernel.to(images).view(1, 1, *shape).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(images, padding, mode="reflect"), weight, groups=channels)


def resize_antialiased(images: Float[Tensor, "b c H W"], size: int) -> Float[Tensor, "b c s s"]:
    """Blur both axes as the shrink demands, then interpolate bicubically with aligned corners.

    Args:
        images: Any range; the published model resizes in [-1, 1].
        size: Height and width of the result.
    """
    height, width = images.shape[-2:]
    blurred = blur_axis(images, blur_kernel(width, size, device=images.device), axis=3)
    blurred = blur_axis(blurred, blur_kernel(height, size, device=images.device), axis=2)
    return F.interpolate(blurred, size=(size, size), mode="bicubic", align_corners=True)


def clip_pixels(images: Float[Tensor, "b 3 H W"], size: int) -> Float[Tensor, "b 3 s s"]:
    """Resize and normalise images for the encoder.

    Args:
        images: RGB in [0, 1], not clamped here.
        size: The encoder's input size in pixels, 224 in the published model.

    Returns:
        float32, channels centred and scaled by CLIP's statistics. Differentiable in ``images``.
    """
    resized = resize_antialiased(images.float() * 2.0 - 1.0, size)
    unit = (resized + 1.0) / 2.0
    mean = torch.tensor(CLIP_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD, device=images.device).view(1, 3, 1, 1)
    return (unit - mean) / std
