"""Pictures as first frames, and as a picture encoder wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.paths import entered
from vader_core.pictures import read_picture
from vader_core.prompts import Prompt

#: What CLIP's picture encoders are given where a folder does not say.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def first_frames(
    prompts: Sequence[Prompt], image: Tensor | None, geometry: Geometry, *, needed_for: str
) -> Tensor:
    """The prompts' pictures [B, 3, H, W] in [0, 1], or the frames that take their place.

    A file is squeezed into the video's shape with a Lanczos filter, as diffusers' video processor does.

    Raises:
        VaderError: A prompt without a picture, a file that is none, or frames of another size.
    """
    if image is not None:
        wanted = (len(prompts), 3, geometry.height, geometry.width)
        if tuple(image.shape) != wanted:
            raise VaderError(f"{needed_for}: first frames have shape {tuple(image.shape)}, not {wanted}")
        return image
    return torch.stack([squeezed(picture, geometry) for picture in opened(prompts, needed_for=needed_for)])


def opened(prompts: Sequence[Prompt], *, needed_for: str) -> list[Image.Image]:
    """The prompts' pictures, as they are.

    Raises:
        VaderError: A prompt without a picture, or a file that is none.
    """
    found = []
    for prompt in prompts:
        if prompt.image is None:
            raise VaderError(
                f"{needed_for} starts from a picture, but the prompt {prompt.text!r} has none: use --prompts "
                "images:FOLDER, or a file with an image column"
            )
        found.append(_opened(prompt.image, needed_for))
    return found


def last_pictures(prompts: Sequence[Prompt], *, needed_for: str) -> list[Image.Image] | None:
    """The pictures that videos are to end with, from the prompts' ``last_image`` column; ``None`` without.

    Raises:
        VaderError: Some prompts of a batch have one and others not, or a file that is no picture.
    """
    given = [prompt.metadata.get("last_image") for prompt in prompts]
    if not any(given):
        return None
    if not all(given):
        raise VaderError(
            f"{needed_for}: {sum(map(bool, given))} of {len(given)} prompts of a batch have a last_image: "
            "give all one, or none"
        )
    return [_opened(entered(str(place)), needed_for) for place in given]


def _opened(place: Path, needed_for: str) -> Image.Image:
    try:
        return read_picture(place)
    except VaderError as error:
        raise VaderError(f"{needed_for}: last_image: {error}") from error


def squeezed(picture: Image.Image, geometry: Geometry) -> Tensor:
    """A picture in the video's shape [3, H, W] in [0, 1], by diffusers' Lanczos filter."""
    resized = picture.resize((geometry.width, geometry.height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255.0).permute(2, 0, 1)


def encoder_pixels(pictures: Tensor, size: int, settings: Mapping[str, Any]) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] as a picture encoder wants them, with their gradient.

    The shorter side becomes ``size``, bicubically and antialiased, and the middle is cut out.

    Args:
        pictures: RGB.
        size: The encoder's own, in pixels.
        settings: Its ``preprocessor_config.json``, where there is one: means and deviations.
    """
    height, width = pictures.shape[-2:]
    factor = size / min(height, width)
    scaled = max(size, round(height * factor)), max(size, round(width * factor))
    if scaled != (height, width):
        pictures = F.interpolate(pictures, scaled, mode="bicubic", antialias=True)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    middle = pictures[:, :, top : top + size, left : left + size]
    mean, std = (
        torch.tensor(list(settings.get(name) or plain), device=middle.device, dtype=middle.dtype)
        for name, plain in (("image_mean", _MEAN), ("image_std", _STD))
    )
    return (middle - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
