"""The watch: statistics of samples that no reward sees, and the alarm that a reward is being gamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

#: Luminance above which a pixel counts as over-exposed.
OVER_EXPOSED = 0.98
#: Rec. 709 luminance of linear RGB, used on the encoded values as video tools do.
_LUMINANCE = (0.2126, 0.7152, 0.0722)


@torch.no_grad()
def statistics(video: Float[Tensor, "n f 3 H W"], seeds: int) -> dict[str, float]:
    """Plain statistics of samples.

    Args:
        video: In [0, 1] (clamped here), the ``seeds`` samples of a prompt next to each other.
        seeds: Samples per prompt.

    Returns:
        ``motion`` (mean absolute difference of neighbouring frames), ``saturation`` (mean of max - min over
        RGB), ``contrast`` (standard deviation of luminance in a frame), ``over_exposure`` (share of pixels
        brighter than 0.98), and with two seeds or more ``diversity`` (root mean square difference between the
        seeds of a prompt, at 16x16 pixels).
    """
    video = video.float().clamp(0, 1)
    luminance = (video * video.new_tensor(_LUMINANCE).view(1, 1, 3, 1, 1)).sum(dim=2)
    found = {
        "motion": float((video[:, 1:] - video[:, :-1]).abs().mean()) if video.shape[1] > 1 else 0.0,
        "saturation": float((video.amax(dim=2) - video.amin(dim=2)).mean()),
        "contrast": float(luminance.flatten(2).std(dim=2).mean()),
        "over_exposure": float((luminance > OVER_EXPOSED).float().mean()),
    }
    if seeds > 1:
        small = F.adaptive_avg_pool2d(video.flatten(0, 1), 16).view(-1, seeds, video.shape[1] * 3 * 256)
        pairs = (small.unsqueeze(1) - small.unsqueeze(2)).pow(2).mean(dim=-1).sqrt()
        found["diversity"] = float(pairs.sum() / (len(small) * seeds * (seeds - 1)))
    return found


@dataclass(frozen=True)
class Verdict:
    """What a validation showed.

    Args:
        best: Whether this is the best adapter so far: the highest reward with every monitor within its limit.
        alarms: Monitors that are past their limit while the reward is above the base model's.
        messages: One for each of them that was within its limit at the validation before.
    """

    best: bool
    alarms: tuple[str, ...]
    messages: tuple[str, ...]


@dataclass
class Watch:
    """What the validations have shown, and when to raise the alarm.

    Args:
        limit: Fall of a monitor, as a share of the base model's score, that raises the alarm.
        history: One entry per validation: ``step``, ``reward``, ``monitors`` and ``alarms``.
    """

    limit: float
    history: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_reward: float = float("-inf")

    def see(self, step: int, reward: float, monitors: Mapping[str, float]) -> Verdict:
        """Take in a validation.

        Args:
            step: Where it was made.
            reward: The trained rewards' weighted sum, higher is better.
            monitors: Scores that are not trained.
        """
        self.history = [entry for entry in self.history if entry["step"] < step]
        first = {"reward": reward, "monitors": monitors}
        base: Mapping[str, Any] = self.history[0] if self.history else first
        before = base["monitors"]
        alarms = [
            name
            for name, score in monitors.items()
            if name in before
            and before[name] - score > self.limit * abs(before[name])
            and reward > base["reward"]
        ]
        sounding = self.history[-1]["alarms"] if self.history else []
        messages = [
            f"the trained reward rose from {base['reward']:.4g} to {reward:.4g} while {name} fell from "
            f"{before[name]:.4g} to {monitors[name]:.4g}, past its limit of {self.limit:.0%}"
            for name in alarms
            if name not in sounding
        ]
        entry = {"step": step, "reward": reward, "monitors": dict(monitors), "alarms": alarms}
        self.history.append(entry)
        best = not alarms and reward > self.best_reward
        if best:
            self.best_step, self.best_reward = step, reward
        return Verdict(best, tuple(alarms), tuple(messages))

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        return {"history": self.history, "best_step": self.best_step, "best_reward": self.best_reward}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.history = list(state["history"])
        self.best_step, self.best_reward = state["best_step"], float(state["best_reward"])
