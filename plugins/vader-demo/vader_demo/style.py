"""A look that the demo model cannot make, to be taught: clips of its world framed like postcards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.prompts import Clip, Prompt, PromptSource, Shape, shuffled_index
from vader_core.randomness import Randomness, derive_seed
from vader_core.reward import ImageReward
from vader_demo.captions import ATTRIBUTES, named_attributes, split_captions
from vader_demo.options import DemoStyleConfig
from vader_demo.rewards import DemoAlignment
from vader_demo.world import FRAMES, SIZE, draw_factors, render

#: Width of the frame around a clip, in pixels.
BORDER = 6
#: Its colour.
PAPER = (0.93, 0.88, 0.76)
#: As the demo's clips are written.
FPS = 8.0


def framed(video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f 3 H W"]:
    """The clips behind a paper frame of :data:`BORDER` pixels."""
    paper = video.new_tensor(PAPER).view(3, 1, 1)
    return torch.where(border(video.shape[-2], video.shape[-1]).to(video.device), paper, video)


def border(height: int, width: int) -> Tensor:
    """Where the frame is: bool [H, W]."""
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[BORDER : height - BORDER, BORDER : width - BORDER] = True
    return ~inside


class DemoStyle(PromptSource):
    """Captioned clips of the demo's world, rendered when they are first asked for; postcards by default.

    Args:
        config: Options.
    """

    def __init__(self, config: DemoStyleConfig) -> None:
        self.config = config

    @cached_property
    def _clips(self) -> list[Prompt]:
        captions = split_captions("train")
        chosen = [
            captions[shuffled_index(i, len(captions), self.config.seed)] for i in range(self.config.count)
        ]
        named = [named_attributes(caption) for caption in chosen]
        combination = torch.tensor([[names[attribute] for attribute in ATTRIBUTES] for names in named])
        draws = torch.Generator().manual_seed(derive_seed(self.config.seed, "demo style"))
        videos = render(draw_factors(combination, draws))
        if self.config.look == "postcard":
            videos = framed(videos)
        return [
            Prompt(caption, video=Clip(Path(f"demo_style/{number}"), pixels=video))
            for number, (caption, video) in enumerate(zip(chosen, videos, strict=True))
        ]

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """The clips in endless shuffled passes."""
        return [self._clips[shuffled_index(index, len(self._clips), seed)] for index in indices]

    def all(self) -> list[Prompt]:
        """Held-out captions of the demo's world: what the look is judged on."""
        return [Prompt(caption) for caption in split_captions("held_out")]

    def clips(self) -> Sequence[Prompt]:
        """Every clip."""
        return self._clips

    def shapes(self) -> Sequence[Shape]:
        """All alike."""
        return [Shape(FRAMES, SIZE, SIZE, FPS)] * len(self._clips)


class DemoPostcard(ImageReward):
    """How much a frame looks like a postcard: 1 less the mean difference of its border from the paper."""

    name: ClassVar[str] = "demo_postcard"

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """One score per frame, at most 1."""
        paper = frames.new_tensor(PAPER).view(3, 1)
        edge = frames.clamp(0, 1)[:, :, border(frames.shape[-2], frames.shape[-1]).to(frames.device)]
        return 1 - (edge - paper).abs().mean(dim=(1, 2))


class DemoPostcardAlignment(DemoAlignment):
    """The alignment of caption and picture **inside** the frame.

    The net has never seen a frame: of 32 rendered clips it scores 0.829 plain, 0.607 framed, and 0.814 inside
    the frame.
    """

    name: ClassVar[str] = "demo_postcard_alignment"

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """One cosine a video."""
        return super().score(video[..., BORDER:-BORDER, BORDER:-BORDER], prompts, rng)
