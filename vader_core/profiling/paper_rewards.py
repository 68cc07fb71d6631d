"""Rewards on paper, where a tensor has no contents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from vader_core.method.mixture import Mixture
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import FramesNeeded, Reward, RewardOutput


class BlackBox(Reward):
    """A reward without a gradient that may ask for values: what it holds on the device is then its input.

    Args:
        inner: The reward; its networks stay where its memory is counted.
    """

    name = "black_box"
    differentiable = False

    def __init__(self, inner: Reward) -> None:
        self._inner = inner

    @property
    def frames(self) -> FramesNeeded:
        """The reward's own."""
        return self._inner.frames

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """What the reward says, or nothing where it needs the values of the pixels."""
        try:
            return self._inner(video, prompts, rng)
        except Exception:  # whatever a program does with pixels that have no contents
            nothing = video.new_zeros(len(video))
            return RewardOutput(nothing.float(), nothing.float())


def on_paper_alone(rewards: Mixture) -> Mixture:
    """The same rewards, with every black box asked for no more than it can say on paper."""
    return Mixture(
        tuple(
            term if term.reward.differentiable else replace(term, reward=BlackBox(term.reward))
            for term in rewards.terms
        )
    )
