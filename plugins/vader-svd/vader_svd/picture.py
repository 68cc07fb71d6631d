"""A picture file as the first frame of a video."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.pictures import read_picture

Fit = Literal["stretch", "crop"]


def open_picture(path: Path) -> Image.Image:
    """Read a picture as RGB, as the core reads every picture.

    Raises:
        VaderError: No such file, or not a picture.
    """
    try:
        return read_picture(path)
    except VaderError as error:
        raise VaderError(f"backbone 'svd': {path} is not a readable picture ({error})") from error


def crop_to_shape(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The largest central part of ``picture`` shaped like ``height`` x ``width``, at its own resolution."""
    shrink = min(picture.width / width, picture.height / height)
    wide, high = max(round(width * shrink), 1), max(round(height * shrink), 1)
    left, top = (picture.width - wide) // 2, (picture.height - high) // 2
    return picture.crop((left, top, left + wide, top + high))


def as_tensor(picture: Image.Image) -> Float[Tensor, "3 H W"]:
    """RGB in [0, 1], float32."""
    pixels = np.asarray(picture, dtype=np.float32) / 255.0
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def first_frame(
    path: Path, height: int, width: int, fit: Fit
) -> tuple[Float[Tensor, "3 h0 w0"], Float[Tensor, "3 H W"]]:
    """The picture at its own size, for CLIP, and at the video's, for the autoencoder.

    Args:
        path: Of the picture.
        height: Of the video, in pixels.
        width: Of the video, in pixels.
        fit: ``stretch`` squeezes it into the video's shape with a Lanczos filter, as the published pipeline
            does; ``crop`` cuts the overhanging borders off first.

    Returns:
        Two tensors, RGB in [0, 1], float32.
    """
    picture = open_picture(path)
    if fit == "crop":
        picture = crop_to_shape(picture, height, width)
    resized = picture.resize((width, height), resample=Image.Resampling.LANCZOS)
    return as_tensor(picture), as_tensor(resized)
