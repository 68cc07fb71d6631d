"""Several rewards as one: the weighted sum of their losses; each reports its own score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.method.frames import choose_frames
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import Reward, asked


@dataclass(frozen=True)
class Term:
    """One reward of a mixture.

    Args:
        name: As registered; unique within the mixture.
        reward: The reward.
        weight: Factor of its loss.
        cap: Score from which on a sample's loss has no gradient; ``None`` is never.
    """

    name: str
    reward: Reward
    weight: float = 1.0
    cap: float | None = None


@dataclass(frozen=True)
class MixtureOutput:
    """What a mixture says of a batch.

    Args:
        loss: [B], the weighted sum of the losses.
        scores: Each term's score [B], by name.
    """

    loss: Float[Tensor, " b"]
    scores: dict[str, Float[Tensor, " b"]]


@dataclass(frozen=True)
class FrameChoice:
    """The frames of one step.

    Args:
        union: What is decoded, ascending.
        of_term: Each term's own frames.
    """

    union: tuple[int, ...]
    of_term: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Mixture:
    """Rewards with weights."""

    terms: tuple[Term, ...]

    def choose_frames(
        self, choice: str, num_frames: int, rng: Randomness, among: Sequence[int] | None = None
    ) -> FrameChoice:
        """Each term's frames and their union; random draws are taken from ``among``."""
        own = tuple(
            choose_frames(term.reward.frames, choice, num_frames, rng, among, name=term.name)
            for term in self.terms
        )
        return FrameChoice(tuple(sorted({index for frames in own for index in frames})), own)

    def __call__(
        self,
        video: Float[Tensor, "b f 3 H W"],
        frames: FrameChoice,
        prompts: Sequence[Prompt],
        rng: Randomness,
    ) -> MixtureOutput:
        """Score the decoded frames.

        Args:
            video: The frames of ``frames.union``, in that order.
            frames: From :meth:`choose_frames`.
            prompts: One a video.
            rng: For rewards that draw.
        """
        total: Tensor | None = None
        scores = {}
        for term, own in zip(self.terms, frames.of_term, strict=True):
            seen = video if own == frames.union else video[:, [frames.union.index(index) for index in own]]
            output = asked(term.name, term.reward, seen, prompts, rng.within("reward", term.name))
            loss = output.loss
            if term.cap is not None:
                loss = torch.where(output.score >= term.cap, loss.detach(), loss)
            scores[term.name] = output.score.detach()
            total = term.weight * loss if total is None else total + term.weight * loss
        if total is None:
            total = video.new_zeros(len(video))
        return MixtureOutput(total, scores)
