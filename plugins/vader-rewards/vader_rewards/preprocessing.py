"""Pixels as each scorer wants them, differentiably: clamp, resize, crop, normalise.

Every function takes frames [N, 3, H, W], RGB nominally in [0, 1] and unclamped, and works in float32 whatever
the input and whatever autocast says: a resize in half precision moves scores more than half precision in the
model does.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vader_core.device import to_device
from vader_core.precision import without_autocast

#: Mean and standard deviation a channel that CLIP was trained with (openai/clip-vit-large-patch14, and
#: open_clip's).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: Mean and standard deviation of ImageNet, which VideoMAE, YOLOS, Grounding DINO, V-JEPA and ViCLIP were
#: trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def clamped(frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """Frames in float32, clamped to [0, 1]; outside that range and at its ends the gradient is zero.

    Versions of torch differ in the gradient of ``clamp`` at its ends, so it is written out.
    """
    frames = frames.float()
    inside = (frames > 0.0) & (frames < 1.0)
    return torch.where(inside, frames, frames.detach().clamp(0.0, 1.0))


def normalised(
    frames: Float[Tensor, "n 3 H W"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[Tensor, "n 3 H W"]:
    """``(frames - mean) / std``, a channel at a time."""
    shift, scale = (
        to_device(torch.tensor(values, dtype=frames.dtype).view(1, 3, 1, 1), frames.device)
        for values in (mean, std)
    )
    return (frames - shift) / scale


def resized(
    frames: Float[Tensor, "n 3 H W"], size: tuple[int, int], *, mode: str = "bilinear", antialias: bool = True
) -> Float[Tensor, "n 3 h w"]:
    """Frames at ``size`` (height, width), half-pixel centres; the aspect ratio is not kept."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    return F.interpolate(frames, size=size, mode=mode, align_corners=False, antialias=antialias)


def short_side_resized(
    frames: Float[Tensor, "n 3 H W"], size: int, *, mode: str, antialias: bool = True
) -> Float[Tensor, "n 3 h w"]:
    """Frames whose shorter side is ``size`` pixels; the longer side keeps the aspect ratio, rounded down."""
    height, width = frames.shape[-2:]
    longer = size * max(height, width) // min(height, width)
    target = (size, longer) if height <= width else (longer, size)
    return resized(frames, target, mode=mode, antialias=antialias)


def centre_cropped(frames: Float[Tensor, "n 3 H W"], size: int) -> Float[Tensor, "n 3 size size"]:
    """The middle ``size`` by ``size`` pixels, from ``side // 2 - size // 2``."""
    top, left = (side // 2 - size // 2 for side in frames.shape[-2:])
    return frames[..., top : top + size, left : left + size]


def clip_pixels(frames: Float[Tensor, "n 3 H W"], size: int = 224) -> Float[Tensor, "n 3 size size"]:
    """As VADER feeds CLIP, for all but PickScore: squashed to a square, bilinear with antialias."""
    with without_autocast(frames.device):
        return normalised(resized(clamped(frames), (size, size)), CLIP_MEAN, CLIP_STD)


def clip_processor_pixels(
    frames: Float[Tensor, "n 3 H W"], size: int = 224
) -> Float[Tensor, "n 3 size size"]:
    """As CLIP's own processor without rounding: short side bicubic with antialias, then a centre crop."""
    with without_autocast(frames.device):
        square = centre_cropped(short_side_resized(clamped(frames), size, mode="bicubic"), size)
        return normalised(square, CLIP_MEAN, CLIP_STD)


def imagenet_pixels(
    frames: Float[Tensor, "n 3 H W"], size: tuple[int, int], *, antialias: bool = True
) -> Float[Tensor, "n 3 h w"]:
    """Squashed to ``size`` (height, width), bilinear, with ImageNet's mean and standard deviation."""
    with without_autocast(frames.device):
        return normalised(resized(clamped(frames), size, antialias=antialias), IMAGENET_MEAN, IMAGENET_STD)


def detector_pixels(frames: Float[Tensor, "n 3 H W"], height: int = 512) -> Float[Tensor, "n 3 h w"]:
    """As VADER feeds its detectors: height 512, width ``512 * W // H``, bilinear without antialias."""
    width = max(1, height * frames.shape[-1] // frames.shape[-2])
    return imagenet_pixels(frames, (height, width), antialias=False)


def cropped_imagenet_pixels(
    frames: Float[Tensor, "n 3 H W"], short_side: int, size: int, *, mode: str = "bilinear"
) -> Float[Tensor, "n 3 size size"]:
    """Short side to ``short_side`` with antialias, centre crop of ``size``, ImageNet statistics."""
    with without_autocast(frames.device):
        square = centre_cropped(short_side_resized(clamped(frames), short_side, mode=mode), size)
        return normalised(square, IMAGENET_MEAN, IMAGENET_STD)
