"""The reward contract: how good a video is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vader_core.precision import widened
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness


@dataclass(frozen=True)
class RewardOutput:
    """What a reward says of a batch.

    Args:
        score: [B], float32, higher is better; what is reported.
        loss: [B], float32 (float64 where the video is); what is minimised.
    """

    score: Float[Tensor, " b"]
    loss: Float[Tensor, " b"]


@dataclass(frozen=True)
class FramesNeeded:
    """Which frames a reward must see.

    Args:
        kind: ``image`` scores frames one by one, any number of them; ``clip`` sees ``count`` frames as a clip
            (any number from ``minimum`` where ``count`` is ``None``); ``all`` needs every frame.
        count: Frames of a ``clip``.
        minimum: Fewest frames of a ``clip`` of any length.
    """

    kind: str
    count: int | None = None
    minimum: int = 1


#: One frame is enough; several are averaged.
IMAGE = FramesNeeded("image")
#: The whole video.
ALL = FramesNeeded("all")


def clip(count: int | None = None, *, minimum: int = 1) -> FramesNeeded:
    """``count`` frames as a clip, evenly spaced over the video; ``None`` is any number from ``minimum``."""
    return FramesNeeded("clip", count, minimum)


class Reward(ABC):
    """How good a video is. Frozen and in eval mode; the gradient reaches the pixels alone."""

    #: The registered name.
    name: ClassVar[str]
    #: Whether a gradient reaches the pixels; a reward without one can be monitored but not trained on.
    differentiable: ClassVar[bool] = True
    #: Whether the gradient is the loss's derivative; ``False`` where a part of the loss is a constant by
    #: definition (V-JEPA's target features).
    exact_gradient: ClassVar[bool] = True
    #: The networks that it stands on, such as ``clip-l14``: another reward on one of them is inclined to like
    #: the same, so it is no independent judge.
    families: ClassVar[tuple[str, ...]] = ()

    @property
    def frames(self) -> FramesNeeded:
        """Which frames it must see."""
        return IMAGE

    @abstractmethod
    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score B videos against B prompts.

        Args:
            video: RGB nominally in [0, 1], unclamped: clamp as the original scorer does.
            prompts: One a video.
            rng: For rewards that draw (masks, crops); the same rng gives the same score.
        """


class ImageReward(Reward):
    """A reward of single frames: implement `score_frames`, and `loss_frames` for a target form."""

    @abstractmethod
    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """One score per frame, each against its own prompt."""

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """One loss a frame; without a target form, minus the score."""
        return -scores

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss of each frame, then the mean of each over the frames."""
        batch, count = video.shape[:2]
        repeated = [prompt for prompt in prompts for _ in range(count)]
        scores = self.score_frames(rearrange(video, "b f c H W -> (b f) c H W"), repeated)
        losses = self.loss_frames(scores)
        return RewardOutput(
            score=scores.float().view(batch, count).mean(dim=1),
            loss=widened(losses).view(batch, count).mean(dim=1),
        )


class ClipReward(Reward):
    """A reward of a clip: implement :meth:`score`, and :meth:`loss` where it is not minus the score."""

    @property
    def frames(self) -> FramesNeeded:
        """A clip of any length."""
        return clip()

    @abstractmethod
    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """One score per video."""

    def loss(self, scores: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """One loss a video."""
        return -scores

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss of each video."""
        scores = self.score(video, prompts, rng)
        return RewardOutput(score=scores.float(), loss=widened(self.loss(scores)))


def require_finite(output: RewardOutput) -> bool:
    """Whether every score and loss is finite."""
    return bool(torch.isfinite(output.score).all() and torch.isfinite(output.loss).all())
