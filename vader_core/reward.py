"""The reward contract: how good a video is."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.component import told
from vader_core.errors import MachineError, VaderError, line_in
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


@dataclass(frozen=True)
class Place:
    """Where something is written.

    Args:
        file: The file.
        line: Where its scoring begins.
    """

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.name}, line {self.line}"


class Reward(ABC):
    """How good a video is. Frozen and in eval mode; the gradient reaches the pixels alone."""

    #: The registered name.
    name: ClassVar[str]
    #: Whether a gradient reaches the pixels; a reward without one can be monitored but not trained on.
    differentiable: ClassVar[bool] = True
    #: Whether the gradient is the loss's derivative; ``False`` where a part of the loss is a constant by
    #: definition (V-JEPA's target features).
    exact_gradient: ClassVar[bool] = True
    #: Whether a clip is judged by its text: then `vader score` asks for one.
    reads_text: ClassVar[bool] = False

    @cached_property
    def place(self) -> Place:
        """Where it is written; messages name it."""
        own = next(name for name in ("score_frames", "score", "__call__") if hasattr(self, name))
        code = getattr(inspect.unwrap(getattr(type(self), own)), "__code__", None)
        return Place(Path(inspect.getfile(type(self))), getattr(code, "co_firstlineno", 1))

    #: The networks that it stands on, such as ``clip-l14``: another reward on one of them is inclined to like
    #: the same, so it is no independent judge.
    families: ClassVar[tuple[str, ...]] = ()

    @property
    def frames(self) -> FramesNeeded:
        """Which frames it must see."""
        return IMAGE

    def towers(self) -> list[nn.Module]:
        """Networks that are given pixels of one shape in every training step; by default none.

        Texts reach them as tensors or not at all: they may be replayed from CUDA graphs.
        """
        return []

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

    #: What messages call that which answers the scores.
    scoring: ClassVar[str] = "score_frames"

    @abstractmethod
    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """One score per frame, each against its own prompt."""

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """One loss per frame; without a target form, minus the score."""
        return -scores

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss of each frame, then the mean of each over the frames."""
        batch, count = video.shape[:2]
        repeated = [prompt for prompt in prompts for _ in range(count)]
        scores = self.score_frames(rearrange(video, "b f c H W -> (b f) c H W"), repeated)
        one_each(scores, batch * count, f"{self.scoring} must return one score per frame")
        losses = self.loss_frames(scores)
        one_each(losses, batch * count, "loss_frames must return one loss per frame")
        return RewardOutput(
            score=scores.float().view(batch, count).mean(dim=1),
            loss=widened(losses).view(batch, count).mean(dim=1),
        )


class ClipReward(Reward):
    """A reward of a clip: implement :meth:`score`, and :meth:`loss` where it is not minus the score."""

    #: What messages call that which answers the scores.
    scoring: ClassVar[str] = "score"

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
        """One loss per video."""
        return -scores

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss of each video."""
        scores = self.score(video, prompts, rng)
        one_each(scores, len(video), f"{self.scoring} must return one score per clip")
        return RewardOutput(score=scores.float(), loss=widened(self.loss(scores)))


def require_finite(output: RewardOutput) -> bool:
    """Whether every score and loss is finite."""
    return bool(torch.isfinite(output.score).all() and torch.isfinite(output.loss).all())


def one_each(values: object, count: int, rule: str) -> None:
    """Refuse values that are not one per frame or clip.

    Args:
        values: What the reward returned.
        count: How many there should be.
        rule: Begins the message.

    Raises:
        VaderError: With the shape that came back.
    """
    if not isinstance(values, Tensor):
        raise VaderError(f"{rule}, a tensor [{count}]; it returned {type(values).__name__}")
    if values.shape != (count,):
        raise VaderError(f"{rule}, [{count}]; it returned {list(values.shape)}")


def asked(
    name: str, reward: Reward, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
) -> RewardOutput:
    """What a reward says of a video. Whatever goes wrong inside it is one message with its file and line.

    Args:
        name: As the run calls it.
        reward: The reward.
        video: The frames that it is to see.
        prompts: One per video.
        rng: For rewards that draw.

    Raises:
        VaderError: It raised, or it returned other things than [B] scores and losses.
    """
    try:
        output = reward(video, prompts, rng)
        if not isinstance(output, RewardOutput):
            raise VaderError(f"it must return a RewardOutput; it returned {type(output).__name__}")
        one_each(output.score, len(video), "it must return one score per video")
        one_each(output.loss, len(video), "it must return one loss per video")
    except (MachineError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the plugin border: a stranger's code may raise anything
        place = line_in(error, reward.place.file) or reward.place
        raise VaderError(f"reward {name!r} ({place}): {why(error)}") from error
    return output


#: How a gradient is lost between the pixels and the score.
CUTS = "cuts the pixels off (NumPy, .detach(), .item(), torch.no_grad())"
#: What to do about it.
NO_GRADIENT = (
    "write it in torch from the pixels to the score; or make it a black box (`differentiable = False`, or in "
    "a function `frames: np.ndarray`), to be trained on with --objective nft or watched with --monitor"
)


def why(error: Exception) -> str:
    """What a reward raised, in words; the advice that torch gives about NumPy would cut the gradient."""
    if isinstance(error, RuntimeError) and "numpy()" in str(error):
        return f"NumPy has no gradient: {NO_GRADIENT}"
    return told(error)
