"""Clips brought to a size: resized until they cover it, then cut around the centre.

Pixel for pixel what the two projects do: they differ in rounding, in antialiasing, and in how pictures are
treated. All functions take and give RGB in [0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from vader_core.data.resolutions import Size

Pixels = UInt8[Tensor, "f 3 H W"]
Clip = Float[Tensor, "f 3 h w"]


def cover_video(pixels: Pixels, size: Size) -> Clip:
    """Open-Sora's way for videos: bilinear, no antialiasing, the other side rounded.

    Args:
        pixels: Bytes, as they are decoded.
        size: (height, width) wanted.

    Returns:
        Float32 in [0, 1].
    """
    covering = _covering(pixels.shape[-2:], size, round)
    resized = _bilinear(pixels.float() / 255.0, covering)
    return _cut(resized, size, (int((covering[0] - size[0]) / 2), int((covering[1] - size[1]) / 2)))


def cover_image(pixels: Pixels, size: Size) -> Clip:
    """Open-Sora's way for pictures: Pillow's bicubic filter, the cut rounded to the nearest pixel."""
    covering = _covering(pixels.shape[-2:], size, round)
    top, left = round((covering[0] - size[0]) / 2), round((covering[1] - size[1]) / 2)
    pictures = [_picture(frame).resize((covering[1], covering[0]), _bicubic()) for frame in pixels]
    return _cut(torch.stack([_tensor(picture) for picture in pictures]), size, (top, left))


def centre_video(pixels: Pixels, side: int) -> Clip:
    """Open-Sora's square cut for videos: the shorter side becomes ``side``, bilinear, no antialiasing."""
    height, width = pixels.shape[-2:]
    scale = side / min(height, width)
    resized = F.interpolate(pixels.float() / 255.0, scale_factor=scale, mode="bilinear", align_corners=False)
    top, left = (round((length - side) / 2) for length in resized.shape[-2:])
    return _cut(resized, (side, side), (top, left))


def centre_image(pixels: Pixels, side: int) -> Clip:
    """Open-Sora's square cut for pictures: halved by box filters while twice too large, then bicubic."""
    from PIL import Image

    cut = []
    for frame in pixels:
        picture = _picture(frame)
        while min(picture.size) >= 2 * side:
            picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        scale = side / min(picture.size)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), _bicubic())
        top, left = (picture.height - side) // 2, (picture.width - side) // 2
        cut.append(_cut(_tensor(picture), (side, side), (top, left)))
    return torch.stack(cut)


def cover_smooth(pixels: Pixels, size: Size, covering: Size | None = None) -> Clip:
    """EasyAnimate's way, and the one for clips much larger than the model's: bilinear with antialiasing.

    Args:
        pixels: Bytes, as they are decoded.
        size: (height, width) wanted.
        covering: The size before the cut; left out, the smallest that covers ``size``, rounded down.

    Returns:
        Float32 in [0, 1].
    """
    covering = covering or smallest_cover(pixels.shape[-2], pixels.shape[-1], size)
    resized = _bilinear(pixels.float() / 255.0, covering, antialias=True)
    top, left = (round((covering[axis] - size[axis]) / 2.0) for axis in (0, 1))
    return _cut(resized, size, (top, left))


def smallest_cover(height: int, width: int, size: Size) -> Size:
    """EasyAnimate: the size that a clip of ``height`` x ``width`` is resized to before the cut."""
    # Rounding must not leave the other side a pixel short.
    if size[0] / height > size[1] / width:
        return size[0], max(size[1], int(width * size[0] / height))
    return max(size[0], int(height * size[1] / width)), size[1]


def _covering(shape: Any, size: Size, rounded: Any) -> Size:
    height, width = shape
    up, across = size[0] / height, size[1] / width
    if up > across:
        return size[0], max(size[1], rounded(width * up))
    return max(size[0], rounded(height * across)), size[1]


def _bilinear(clip: Tensor, size: Size, *, antialias: bool = False) -> Tensor:
    if tuple(clip.shape[-2:]) == tuple(size):
        return clip
    return F.interpolate(clip, size=size, mode="bilinear", align_corners=False, antialias=antialias)


def _cut(clip: Tensor, size: Size, corner: Size) -> Tensor:
    top, left = corner
    return clip[..., top : top + size[0], left : left + size[1]].contiguous()


def _picture(frame: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())


def _tensor(picture: Any) -> Tensor:
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255.0


def _bicubic() -> Any:
    from PIL import Image

    return Image.Resampling.BICUBIC
