"""How a reward behaves around a video: its gradient at the pixels, and its score under small changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import Reward

#: Pixels by which the picture is moved, to the right and down.
SHIFTS = (1, 2, 4)
#: Standard deviations of the blur, pixels.
BLURS = (0.5, 1.0, 2.0)
#: Factors on every value.
BRIGHTNESS = (0.9, 1.1)


@dataclass(frozen=True)
class Probe:
    """What was measured on one video.

    Args:
        score: Of the video as it is.
        gradient_norm: Euclidean norm of the loss's gradient over all pixels; ``None`` without a gradient.
        gradient: That gradient, [F, 3, H, W]; ``None`` likewise.
        changed: Score by the change, e.g. ``blur 1 px``.
    """

    score: float
    gradient_norm: float | None
    gradient: Tensor | None
    changed: dict[str, float]

    def lines(self) -> list[str]:
        """One line a measurement."""
        norm = "none" if self.gradient_norm is None else f"{self.gradient_norm:.4g}"
        rows = [f"{'score':<22}{self.score:.5g}", f"{'gradient norm':<22}{norm}"]
        rows += [
            f"{name:<22}{score:.5g}  ({score - self.score:+.3g})" for name, score in self.changed.items()
        ]
        return rows


def probe(reward: Reward, video: Float[Tensor, "f 3 H W"], prompt: Prompt) -> Probe:
    """Measure ``reward`` on one video.

    Args:
        reward: Any reward.
        video: The frames that it is to see, RGB in [0, 1].
        prompt: What the video is scored against.
    """
    pixels = video[None].detach().clone().requires_grad_(reward.differentiable)
    rng = Randomness(seed=0)
    output = reward(pixels, [prompt], rng)
    gradient = None
    if reward.differentiable:
        gradient = torch.autograd.grad(output.loss.sum(), pixels)[0][0]
    with torch.no_grad():
        changed = {name: float(reward(other[None], [prompt], rng).score) for name, other in changes(video)}
    norm = None if gradient is None else float(gradient.norm())
    return Probe(float(output.score.detach()), norm, gradient, changed)


def changes(video: Float[Tensor, "f 3 H W"]) -> Iterator[tuple[str, Tensor]]:
    """The video with each small change, by name."""
    height, width = video.shape[-2:]
    for pixels in SHIFTS:
        padded = F.pad(video, (pixels, 0, pixels, 0), mode="replicate")
        yield f"shift {pixels} px", padded[..., :height, :width]
    for deviation in BLURS:
        yield f"blur {deviation:g} px", blurred(video, deviation)
    for factor in BRIGHTNESS:
        yield f"brightness x{factor:g}", (video * factor).clamp(0, 1)


def blurred(video: Float[Tensor, "f 3 H W"], deviation: float) -> Float[Tensor, "f 3 H W"]:
    """The video under a Gaussian of ``deviation`` pixels, edges repeated."""
    reach = math.ceil(3 * deviation)
    offsets = torch.arange(-reach, reach + 1, dtype=video.dtype, device=video.device)
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, -1)
    padded = F.pad(video, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, weights[:, :, None, :], groups=3)
    return F.conv2d(rows, weights[:, :, :, None], groups=3)


def saliency(video: Float[Tensor, "f 3 H W"], gradient: Float[Tensor, "f 3 H W"]) -> Float[Tensor, "f 3 H W"]:
    """The video beside a map of where the reward looks: twice as wide, RGB in [0, 1].

    The map is the gradient's size per pixel, divided by its 99.5 % quantile over the clip, in red over a dim
    grey picture.
    """
    size = gradient.norm(dim=1)
    top = torch.quantile(size.flatten()[:: max(1, size.numel() // 1_000_000)], 0.995).clamp(min=1e-30)
    heat = (size / top).clamp(0, 1)[:, None]
    grey = 0.4 * video.mean(dim=1, keepdim=True).clamp(0, 1)
    red = torch.cat([grey + (1 - grey) * heat, grey * (1 - heat), grey * (1 - heat)], dim=1)
    return rearrange([video.clamp(0, 1), red], "side f c H W -> f c H (side W)")


def frames_for(reward: Reward, video: Float[Tensor, "f 3 H W"]) -> Float[Tensor, "f 3 H W"]:
    """The frames of ``video`` that the reward would be given with ``--reward-frames all``."""
    from vader_core.method.frames import choose_frames

    chosen: Sequence[int] = choose_frames(reward.frames, "all", len(video), Randomness(seed=0))
    return video[list(chosen)]
