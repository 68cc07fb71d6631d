"""The contract of a reward, clause by clause."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import CUTS, NO_GRADIENT, Reward, RewardOutput, why
from vader_core.testing.conformance import (
    Broken,
    Contract,
    Subject,
    expect,
    expect_close,
    expect_tensor,
    global_state_untouched,
    relative,
    reseeded,
)

#: Largest difference between a directional derivative and its finite difference, as a share of the larger.
FINITE = 0.05
#: Slopes below this share of what the gradient's own direction would give are compared with that share
#: instead: float32 rounding and curvature drown them.
FLOOR = 0.05
#: Largest difference between a bfloat16 and a float32 score, as a share of max(1, |score|).
BF16 = 0.1
#: Root mean square steps of a pixel for finite differences, tried until one agrees: rounding spoils small
#: steps, curvature large ones.
STEPS = (0.01, 0.003, 0.001, 0.0003, 0.0001, 0.03)

_PROMPTS = (Prompt("a red boat on a river"), Prompt("two dogs run over a field of snow"))


@dataclass
class RewardSubject(Subject):
    """A reward under examination; one float32 instance is kept for all clauses.

    Args:
        height: Of the videos, pixels.
        width: Of the videos, pixels.
        prompts: What the videos are scored against; two of them.
    """

    flags: ClassVar[tuple[str, ...]] = ("height", "width", "video", "saliency")

    height: int = 64
    width: int = 64
    prompts: Sequence[Prompt] = _PROMPTS
    _held: Reward | None = None

    @classmethod
    def settings(cls, flags: Mapping[str, Any]) -> dict[str, Any]:
        """The size of video that the command line asks for."""
        return {side: flags[side] for side in ("height", "width") if flags[side] is not None}

    def held(self) -> Reward:
        """The float32 instance, shared by the clauses."""
        if self._held is None:
            self._held = self.make()
        return self._held

    def video(self, batch: int = 2, *, height: int = 0, width: int = 0, frames: int = 0) -> Tensor:
        """Smooth moving patterns [B, F, 3, H, W] in [0.15, 0.85], a different one per sample."""
        count = frames or self.num_frames
        return moving_patterns(batch, count, height or self.height, width or self.width).to(self.device)

    @property
    def num_frames(self) -> int:
        """Frames of the videos: what the reward needs, at least two where any number will do."""
        needed = self.held().frames
        if needed.kind == "image":
            return 2
        return needed.count or max(needed.minimum, 4)


REWARD = Contract("reward", RewardSubject)
check_reward, reward_clauses, reward_subject = REWARD.check, REWARD.clauses, REWARD.subject


# -- what the clauses work with ------------------------------------------------------------------------------


def moving_patterns(batch: int, frames: int, height: int, width: int) -> Tensor:
    """Smooth coloured patterns that drift and change: [B, F, 3, H, W], float32 in [0.15, 0.85]."""
    coarse = Randomness(seed=11, samples=tuple(range(batch))).normal("patterns", (2 * 3, 6, 6))
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    first, second = fine[:, :3], fine[:, 3:]
    moments = torch.linspace(0, 1.2, frames)
    video = torch.stack(
        [
            math.cos(angle) * first.roll(2 * index, dims=-1) + math.sin(angle) * second
            for index, angle in enumerate(moments.tolist())
        ],
        dim=1,
    )
    return 0.5 + 0.35 * torch.tanh(video)


def _rng(samples: tuple[int, ...] = (0, 1)) -> Randomness:
    return Randomness(seed=5, step=2, samples=samples)


def _score(subject: RewardSubject, video: Tensor, rows: slice = slice(None)) -> RewardOutput:
    reward = subject.held()
    output = reward(video[rows], list(subject.prompts)[rows], _rng(tuple(range(2))[rows]))
    expect(isinstance(output, RewardOutput), f"it returned a {type(output).__name__}, not a RewardOutput")
    return output


def gradient_at(subject: RewardSubject, video: Tensor) -> tuple[RewardOutput, Tensor]:
    """The output for ``video`` and the gradient of the summed loss at its pixels."""
    pixels = video.clone().requires_grad_(True)
    try:
        output = _score(subject, pixels)
    except RuntimeError as error:
        raise Broken(why(error)) from error
    lost = f"the loss has no gradient, for something in the reward {CUTS}: {NO_GRADIENT}"
    expect(output.loss.requires_grad, lost)
    (gradient,) = torch.autograd.grad(output.loss.sum(), pixels, allow_unused=True)
    if gradient is None:
        raise Broken("the loss does not depend on the pixels")
    bad = int((~torch.isfinite(gradient)).sum())
    expect(not bad, f"{bad} values of the gradient are not finite")
    return output, gradient


def _modules(value: object, depth: int = 4) -> Iterator[nn.Module]:
    """Every module that an object holds, however it holds it."""
    if isinstance(value, nn.Module):
        yield value
    elif depth:
        if isinstance(value, Mapping):
            held = list(value.values())
        elif isinstance(value, list | tuple | set):
            held = list(value)
        else:
            held = list(getattr(value, "__dict__", {}).values())
        for part in held:
            yield from _modules(part, depth - 1)


# -- the clauses ---------------------------------------------------------------------------------------------


@REWARD.clause
def frames_needed(subject: RewardSubject) -> str:
    """`frames` is `image`, a clip of at least one frame, or `all`."""
    needed = subject.held().frames
    expect(needed.kind in ("image", "clip", "all"), f"kind={needed.kind!r}")
    expect(needed.minimum >= 1, f"minimum={needed.minimum}")
    expect(needed.count is None or needed.count >= needed.minimum, f"{needed}")
    expect(needed.count is None or needed.kind == "clip", f"count={needed.count} of kind {needed.kind!r}")
    return f"{needed.kind}, scored on {subject.num_frames} frames here"


@REWARD.clause
def frozen(subject: RewardSubject) -> str:
    """Everything inside is frozen and in eval mode: the gradient reaches the pixels alone."""
    modules = list(_modules(subject.held()))
    training = [type(m).__name__ for module in modules for m in module.modules() if m.training]
    expect(not training, f"in training mode: {', '.join(sorted(set(training))[:3])}")
    free = [name for module in modules for name, p in module.named_parameters() if p.requires_grad]
    expect(not free, f"{len(free)} parameters are not frozen, first {free[:1]}")
    count = sum(p.numel() for module in modules for p in module.parameters())
    return f"{len(modules)} modules, {count:,} parameters"


@REWARD.clause
def scores(subject: RewardSubject) -> str:
    """Score and loss are finite float32 [B], one per video."""
    with torch.no_grad():
        output = _score(subject, subject.video())
    expect_tensor(output.score, (2,), "the score", dtype=torch.float32)
    expect_tensor(output.loss, (2,), "the loss", dtype=torch.float32)
    return f"scores {_listed(output.score)}, losses {_listed(output.loss)}"


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.flatten().tolist())


@REWARD.clause
@torch.no_grad()
def sizes(subject: RewardSubject) -> str:
    """Any height, width and (where it may choose) number of frames is scored; so are values beyond [0, 1]."""
    shapes = [(40, 72, 0), (96, 56, 0)]
    needed = subject.held().frames
    if needed.kind == "image":
        shapes += [(64, 64, 1), (64, 64, 3)]
    elif needed.count is None:
        shapes += [(64, 64, needed.minimum), (64, 64, needed.minimum + 3)]
    for height, width, count in shapes:
        video = subject.video(height=height, width=width, frames=count)
        expect_tensor(_score(subject, video).score, (2,), f"the score of {tuple(video.shape)}")
    wild = 3 * subject.video() - 1
    expect_tensor(_score(subject, wild).score, (2,), "the score of a video from -0.5 to 1.5")
    return ", ".join(f"{height}x{width}" for height, width, _ in shapes)


@REWARD.clause
@torch.no_grad()
def determinism(subject: RewardSubject) -> str:
    """The same video, prompts and rng give the same score; no global random state is read or changed."""
    video = subject.video()
    with reseeded(1):
        first = _score(subject, video)
    with reseeded(2):
        second = _score(subject, video)
    off = max(relative(second.score, first.score), relative(second.loss, first.loss))
    expect(off <= (0 if subject.device.type == "cpu" else 1e-5), f"repeated scores differ by {off:.2g}")
    with global_state_untouched():
        kept = video.clone()
        _score(subject, video)
    expect(torch.equal(kept, video), "the video was changed in place")
    return "bit for bit" if off == 0 else f"to {off:.1g}"


@REWARD.clause
@torch.no_grad()
def batch_independence(subject: RewardSubject) -> str:
    """A video's score does not depend on the other videos of its batch."""
    video = subject.video()
    both = _score(subject, video)
    worst = 0.0
    for row in (slice(0, 1), slice(1, 2)):
        alone = _score(subject, video, row)
        scale = max(1.0, float(both.score.abs().max()))
        for name in ("score", "loss"):
            mine, wanted = getattr(alone, name), getattr(both, name)[row]
            off = float((mine - wanted).abs().max()) / scale
            found = f"{name} of sample {row.start}: {_listed(mine)} alone, {_listed(wanted)} of two"
            expect(off < 1e-3, found)
            worst = max(worst, off)
    return f"alone or together: {worst:.1g}"


@REWARD.clause
@torch.no_grad()
def sensitivity(subject: RewardSubject) -> str:
    """Different videos get different scores."""
    video = subject.video()
    output = _score(subject, video)
    other = _score(subject, video.flip(0))
    same = torch.equal(output.score, other.score)
    expect(not same, f"two different videos both score {_listed(output.score)}")
    return f"exchanged videos: {_listed(output.score)} and {_listed(other.score)}"


@REWARD.clause
def pixel_gradient(subject: RewardSubject) -> str:
    """A finite gradient reaches each video's own pixels; a reward that is not differentiable sends none."""
    reward = subject.held()
    video = subject.video()
    if not reward.differentiable:
        pixels = video.clone().requires_grad_(True)
        output = _score(subject, pixels)
        expect(not output.loss.requires_grad, "`differentiable` is False, yet the loss carries a graph")
        return "not differentiable: for monitoring"
    _, gradient = gradient_at(subject, video)
    norms = gradient.flatten(1).norm(dim=1)
    expect(bool((norms > 0).all()), f"gradient norms {_listed(norms)}")
    pixels = video.clone().requires_grad_(True)
    (own,) = torch.autograd.grad(_score(subject, pixels).loss[0], pixels)
    leak = float(own[1].norm())
    expect(leak <= 1e-6 * float(norms[0]), f"the loss of sample 0 has gradient {leak:.2g} at sample 1")
    return f"norms {_listed(norms)}"


@REWARD.clause
def finite_differences(subject: RewardSubject) -> str:
    """The gradient at the pixels agrees with finite differences of the loss."""
    reward = subject.held()
    if not reward.differentiable:
        return "not differentiable: for monitoring"
    if not reward.exact_gradient:
        return "a part of the loss is held constant: its differences say nothing of the gradient"
    video = subject.video()
    _, gradient = gradient_at(subject, video)
    worst = 0.0
    for name, direction in _directions(gradient):
        slope = float((gradient * direction).sum(dtype=torch.float64))
        size = float(gradient.double().norm() * direction.double().norm())
        off, nearest = math.inf, math.nan
        for step in STEPS:
            found = _difference(subject, video, step * direction) / step
            apart = abs(found - slope) / max(abs(slope), abs(found), FLOOR * size)
            off, nearest = min((off, nearest), (apart, found))
            if off < FINITE:
                break
        found_both = f"along {name} the gradient says {slope:.4g}, differences say {nearest:.4g}"
        expect(off < FINITE, f"{found_both} ({off:.0%} off)")
        worst = max(worst, off)
    return f"along six directions: off by at most {worst:.1g}"


def _directions(gradient: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The gradient's own direction, smooth random ones, each colour alone; moving pixels move about 1."""
    yield "the gradient", gradient / gradient.square().mean().sqrt()
    batch, frames, _, height, width = gradient.shape
    for turn in (1, 2):
        coarse = Randomness(turn, samples=tuple(range(batch))).normal("direction", (3 * frames, 4, 4))
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear").view(gradient.shape)
        yield f"smooth direction {turn}", (smooth / smooth.square().mean().sqrt()).to(gradient)
    for index, colour in enumerate(("red", "green", "blue")):
        single = torch.zeros_like(gradient)
        single[:, :, index] = 1.0
        yield colour, single


@torch.no_grad()
def _difference(subject: RewardSubject, video: Tensor, step: Tensor) -> float:
    """Half the loss's change from one side of ``video`` to the other."""
    above = _score(subject, video + step).loss.double().sum()
    below = _score(subject, video - step).loss.double().sum()
    return float(above - below) / 2


@REWARD.clause
def direction(subject: RewardSubject) -> str:
    """A small step down the loss raises the score."""
    reward = subject.held()
    if not reward.differentiable:
        return "not differentiable: for monitoring"
    video = subject.video()
    output, gradient = gradient_at(subject, video)
    own = gradient / gradient.flatten(1).square().mean(dim=1).sqrt().view(-1, 1, 1, 1, 1)
    gains = []
    for eps in (0.01, 0.003, 0.001):
        with torch.no_grad():
            gains.append(_score(subject, video - eps * own).score - output.score)
    best = torch.stack(gains).max(dim=0).values
    expect(bool((best > 0).all()), f"steps down the loss change the scores by at most {_listed(best)}")
    return f"scores rise by {_listed(best)}"


@REWARD.clause
def bfloat16(subject: RewardSubject) -> str:
    """With bfloat16 weights, scores and losses stay float32 and near those of float32 weights."""
    with torch.no_grad():
        wanted = _score(subject, subject.video()).score
        reward = subject.make(torch.bfloat16)
        output = reward(subject.video(), list(subject.prompts), _rng())
    expect_tensor(output.score, (2,), "the score", dtype=torch.float32)
    expect_tensor(output.loss, (2,), "the loss", dtype=torch.float32)
    off = float(((output.score - wanted).abs() / wanted.abs().clamp(min=1)).max())
    expect(off < BF16, f"scores {_listed(output.score)} instead of {_listed(wanted)}")
    return f"{off:.1g} from float32"


@REWARD.clause
@torch.no_grad()
def frame_average(subject: RewardSubject) -> str:
    """An image reward's score is the mean of its frames' scores."""
    needed = subject.held().frames
    if needed.kind != "image":
        return f"scores a {needed.kind}"
    video = subject.video(frames=3)
    whole = _score(subject, video).score
    single = torch.stack([_score(subject, video[:, index : index + 1]).score for index in range(3)])
    off = expect_close(whole, single.mean(dim=0), "three frames and the mean of their scores", within=1e-3)
    return f"to {off:.1g}"
