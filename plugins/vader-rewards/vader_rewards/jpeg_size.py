"""``jpeg_size``: the real size of a frame as JPEG. No gradient: the example of a black box."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.prompts import Prompt
from vader_core.reward import ImageReward

from .options import JpegSizeOptions

#: Bytes in the kB that the score is counted in.
KILOBYTE = 1000.0


class JpegSize(ImageReward):
    """Minus the size in kB (1000 bytes) of each frame as a JPEG file, by Pillow; higher is smaller."""

    name: ClassVar[str] = "jpeg_size"
    differentiable: ClassVar[bool] = False

    def __init__(self, options: JpegSizeOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        self.quality = options.quality
        self.device = device

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """Minus the size of each frame; prompts play no part."""
        from PIL import Image

        pixels = (frames.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        sizes = []
        for image in pixels:
            stream = BytesIO()
            Image.fromarray(image).save(stream, format="JPEG", quality=self.quality)
            sizes.append(stream.tell() / KILOBYTE)
        return -torch.tensor(sizes, device=frames.device)
