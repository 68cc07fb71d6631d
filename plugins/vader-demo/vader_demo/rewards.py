"""The demo's rewards and judges on the contract; pictures are brought to 64 x 64 and clamped to [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vader_core.errors import VaderError, unknown
from vader_core.precision import wide
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, ImageReward, RewardOutput, clip
from vader_demo.captions import ATTRIBUTES, MOTIONS, UnknownWordError, named_attributes, tokenise
from vader_demo.checkpoint import load_parts
from vader_demo.options import ActionConfig, JudgeConfig, RewardConfig
from vader_demo.scorers import build_judges, build_rewards, judge
from vader_demo.world import FRAMES, SIZE


def _own_size(video: Float[Tensor, "*n 3 H W"]) -> Float[Tensor, "*n 3 64 64"]:
    """Clamp to [0, 1] and, where the size differs, resize (bilinear, antialiased)."""
    video = video.clamp(0, 1)
    if video.shape[-2:] == (SIZE, SIZE):
        return video
    flat = functional.interpolate(
        video.flatten(0, -4), size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
    )
    return flat.unflatten(0, video.shape[:-3])


def _reward_net(
    name: str, config: RewardConfig, held_out: bool, device: torch.device, dtype: torch.dtype
) -> Any:
    net = build_rewards(held_out)[name]
    prefix = f"held_out_{name}" if held_out else name
    load_parts({prefix: net}, config.weights, "rewards", needed_for=f"reward 'demo_{name}'")
    # The nets are small: half precision would save nothing.
    return net.to(device, wide(dtype))


class DemoAesthetic(ImageReward):
    """How beautiful frames are by the demo world's definition: vivid, outlined, sunlit; about 0 to 10.

    Args:
        config: Options.
        device: Where the net lives.
        dtype: float64 where exactness is wanted, float32 otherwise.
    """

    name: ClassVar[str] = "demo_aesthetic"
    held_out: ClassVar[bool] = False

    def __init__(self, config: RewardConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        self.net = _reward_net("aesthetic", config, self.held_out, device, dtype)
        self._dtype = wide(dtype)

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """One score per frame; the prompts are not read."""
        scores: Tensor = self.net(_own_size(frames.to(self._dtype)))[:, 0]
        return scores


class _DemoClipReward(ClipReward):
    @property
    def frames(self) -> FramesNeeded:
        """Eight frames, as in the demo's world."""
        return clip(FRAMES)


class DemoAlignment(_DemoClipReward):
    """Cosine of a clip's and its caption's embedding, -1 to 1.

    Args:
        config: Options.
        device: Where the net lives.
        dtype: float64 where exactness is wanted, float32 otherwise.
    """

    name: ClassVar[str] = "demo_alignment"
    reads_text: ClassVar[bool] = True
    held_out: ClassVar[bool] = False

    def __init__(self, config: RewardConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        self.net = _reward_net("alignment", config, self.held_out, device, dtype)
        self._dtype, self._device = wide(dtype), device

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """One cosine a video."""
        try:
            tokens = torch.tensor([tokenise(prompt.text) for prompt in prompts], device=self._device)
        except UnknownWordError as error:
            raise VaderError(f"reward {self.name!r}: {error}") from error
        cosine: Tensor = self.net(_own_size(video.to(self._dtype)), tokens)
        return cosine


class DemoAction(_DemoClipReward):
    """Probability of a chosen motion; the loss is its negative logarithm.

    Args:
        config: Options, the motion among them.
        device: Where the net lives.
        dtype: float64 where exactness is wanted, float32 otherwise.
    """

    name: ClassVar[str] = "demo_action"
    held_out: ClassVar[bool] = False

    def __init__(self, config: ActionConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        self.net = _reward_net("action", config, self.held_out, device, dtype)
        self._wanted = MOTIONS.index(config.motion)
        self._dtype = wide(dtype)

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Probability and its negative logarithm."""
        logarithm = self._log_probability(video)
        return RewardOutput(score=logarithm.exp().float(), loss=-logarithm)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """The probability of the motion, 0 to 1."""
        return self._log_probability(video).exp()

    def _log_probability(self, video: Tensor) -> Tensor:
        logits = self.net(_own_size(video.to(self._dtype)))
        return functional.log_softmax(logits, dim=1)[:, self._wanted]


class _DemoJudge(_DemoClipReward):
    """Whether a judge, which was trained on rendered clips only, sees an attribute: 1 or 0.

    Args:
        config: Options.
        device: Where the net lives.
        dtype: Ignored by design: a judge has no gradient and is always float32.
    """

    differentiable: ClassVar[bool] = False
    attribute: ClassVar[str]

    def __init__(self, config: JudgeConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        attribute = self.attribute
        values = ATTRIBUTES[attribute]
        if config.value is not None and config.value not in values:
            raise unknown(f"{attribute} of reward 'demo_judge_{attribute}'", config.value, values)
        self._value = None if config.value is None else values.index(config.value)
        net: nn.Module = build_judges()[attribute]
        load_parts({attribute: net}, config.weights, "judges", needed_for=f"reward 'demo_judge_{attribute}'")
        self.net = net.to(device)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """1 where the judge's likeliest value is the wanted one.

        Raises:
            VaderError: A prompt does not name the attribute and no value is given.
        """
        wanted = torch.tensor([self._wanted(prompt) for prompt in prompts], device=video.device)
        seen = judge({self.attribute: self.net}, _own_size(video.float()))[self.attribute]
        return (seen == wanted).float()

    def _wanted(self, prompt: Prompt) -> int:
        if self._value is not None:
            return self._value
        named = named_attributes(prompt.text)
        if self.attribute not in named:
            raise VaderError(
                f"reward {self.name!r}: the prompt {prompt.text!r} names no {self.attribute}; "
                f"say what to look for with -o reward.{self.name}.value=VALUE "
                f"(one of {', '.join(ATTRIBUTES[self.attribute])})"
            )
        return named[self.attribute]


class DemoAestheticHeldOut(DemoAesthetic):
    """The second net, of other width and seed, for monitoring."""

    name: ClassVar[str] = "demo_aesthetic_held_out"
    held_out: ClassVar[bool] = True


class DemoAlignmentHeldOut(DemoAlignment):
    """The second net, of other width and seed, for monitoring."""

    name: ClassVar[str] = "demo_alignment_held_out"
    held_out: ClassVar[bool] = True


class DemoActionHeldOut(DemoAction):
    """The second net, of other width and seed, for monitoring."""

    name: ClassVar[str] = "demo_action_held_out"
    held_out: ClassVar[bool] = True


class DemoJudgeShape(_DemoJudge):
    """Whether the shape is seen."""

    name: ClassVar[str] = "demo_judge_shape"
    attribute: ClassVar[str] = "shape"


class DemoJudgeColour(_DemoJudge):
    """Whether the colour is seen."""

    name: ClassVar[str] = "demo_judge_colour"
    attribute: ClassVar[str] = "colour"


class DemoJudgeBackground(_DemoJudge):
    """Whether the background is seen."""

    name: ClassVar[str] = "demo_judge_background"
    attribute: ClassVar[str] = "background"


class DemoJudgeMotion(_DemoJudge):
    """Whether the motion is seen."""

    name: ClassVar[str] = "demo_judge_motion"
    attribute: ClassVar[str] = "motion"
