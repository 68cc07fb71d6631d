"""A clip as the model is shown it: its frames chosen, read, and brought to a size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.data.clips import probe, read_frames
from vader_core.data.crops import Pixels, cover_image, cover_smooth, cover_video
from vader_core.data.examine import within
from vader_core.data.frame_masks import Draws
from vader_core.data.frame_rule import FrameRule
from vader_core.data.latents import read_latents
from vader_core.data.options import Crop
from vader_core.data.resolutions import Size
from vader_core.errors import VaderError
from vader_core.prompts import Clip, Prompt, Shape


@dataclass(frozen=True)
class Reader:
    """How every clip of a run is read.

    Args:
        rule: Which frames.
        crop: How they are resized.
    """

    rule: FrameRule
    crop: Crop = "smooth"

    def filled(
        self, prompt: Prompt, frames: int, size: Size, draws: Draws, shape: Shape | None = None
    ) -> Prompt:
        """The prompt with its clip read: with its pixels, or with its latents where it is of a cache.

        Args:
            prompt: With a video.
            frames: How many.
            size: (height, width) in pixels.
            draws: Where the start comes from.
            shape: What the clip holds, where it is known.

        Raises:
            VaderError: Naming the file and what is wrong with it.
        """
        clip = prompt.video
        if clip is None:
            raise VaderError(f"prompt {prompt.text!r} has no video to learn from")
        if clip.entry is not None:
            latents, first = read_latents(clip)
            return replace(prompt, video=replace(clip, latents=latents, first=first))
        pixels = self.read(clip, frames, size, draws, shape)
        return replace(prompt, video=replace(clip, pixels=pixels))

    def read(
        self, clip: Clip, frames: int, size: Size, draws: Draws, shape: Shape | None = None
    ) -> Float[Tensor, "f 3 h w"]:
        """Chosen frames of ``clip`` in [0, 1], float32.

        Args:
            clip: The file and where the clip lies in it.
            frames: How many.
            size: (height, width) in pixels.
            draws: Where the start comes from.
            shape: What the clip holds, where it is known; left out, the file's header is read.

        Raises:
            VaderError: Naming the file and what is wrong with it.
        """
        if clip.pixels is not None:
            return self._held(clip.pixels, frames, size, draws, shape)
        try:
            if shape is None or (shape.fps is None and shape.frames > 1):
                shape = within(probe(clip.path), clip.start, clip.end)
            if shape is None:
                raise VaderError(f"it ends before the clip begins, at {clip.start:g} s")
            indices = self.rule.choose(shape, frames, draws)
            read = read_frames(clip.path, indices, rate=shape.fps or self.rule.fps, start=clip.start)
            picture = shape.frames == 1
            return torch.cat([self._cut(frame[None], size, picture=picture) for frame in read])
        except VaderError as error:
            raise VaderError(f"clip {clip.path}: {error}") from error

    def _held(
        self, pixels: Tensor, frames: int, size: Size, draws: Draws, shape: Shape | None
    ) -> Float[Tensor, "f 3 h w"]:
        """Chosen frames of a clip that its source holds in memory."""
        shape = shape or Shape(len(pixels), *pixels.shape[-2:])
        chosen = pixels[self.rule.choose(shape, frames, draws)]
        if tuple(chosen.shape[-2:]) == tuple(size):
            return chosen
        return self._cut((chosen.clamp(0, 1) * 255).round().byte(), size, picture=shape.frames == 1)

    def _cut(self, pixels: Pixels, size: Size, *, picture: bool) -> Float[Tensor, "f 3 h w"]:
        if self.crop == "smooth":
            return cover_smooth(pixels, size)
        return cover_image(pixels, size) if picture else cover_video(pixels, size)
