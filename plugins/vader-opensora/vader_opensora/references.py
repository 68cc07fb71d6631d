"""Pictures and clips that a video starts from."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from vader_core.clips import decode
from vader_core.pictures import first_bytes, read_picture, sniffed


def read_reference(path: Path, height: int, width: int) -> Tensor:
    """A picture, or every frame of a video, scaled to fill the size and cropped about the middle.

    Args:
        path: The file.
        height: Pixels.
        width: Pixels.

    Returns:
        [f, 3, height, width] in [0, 1].

    Raises:
        VaderError: The file cannot be read.
    """
    start = first_bytes(path, what="reference")
    pictures = [read_picture(path)] if sniffed(start) is not None else map(Image.fromarray, decode(path))
    frames = [numpy.asarray(_filled(picture, height, width)) for picture in pictures]
    return torch.from_numpy(numpy.stack(frames)).permute(0, 3, 1, 2).float() / 255


def _filled(picture: Image.Image, height: int, width: int) -> Image.Image:
    scale = max(height / picture.height, width / picture.width)
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    grown = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return grown.crop((left, top, left + width, top + height))
