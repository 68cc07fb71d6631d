"""Pictures and clips that a video starts from."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from vader_core.errors import VaderError

#: Files that are read as pictures; all others as videos.
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


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
    try:
        if path.suffix.lower() in PICTURES:
            with Image.open(path) as opened:
                pictures = [opened.convert("RGB")]
        else:
            pictures = _video(path)
    except OSError as error:
        raise VaderError(f"reference {path}: cannot be read as a picture or a video ({error})") from error
    frames = [numpy.asarray(_filled(picture, height, width)) for picture in pictures]
    return torch.from_numpy(numpy.stack(frames)).permute(0, 3, 1, 2).float() / 255


def _video(path: Path) -> list[Image.Image]:
    import av

    with av.open(str(path)) as container:
        return [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def _filled(picture: Image.Image, height: int, width: int) -> Image.Image:
    scale = max(height / picture.height, width / picture.width)
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    grown = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return grown.crop((left, top, left + width, top + height))
