"""Any reward of the installed plugins as a scorer of clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry

from . import sampling
from .contracts import Clip, Scorer
from .device import chosen_device
from .options import RewardOptions


class RewardScorer(Scorer):
    """A reward, given the frames that it asks for, and the clip's caption as its prompt."""

    def __init__(self, options: RewardOptions) -> None:
        self.options = options
        self.batch_size = options.batch_size
        self.device = chosen_device(options.device)
        self.reward = (
            load_registry()
            .get("reward", options.reward)
            .make(options.options, device=self.device, dtype=torch.float32)
        )

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """For an image reward by the option ``frames``; for a clip reward what it says itself."""
        needed = self.reward.frames
        if needed.kind == "image":
            return self._of_images(num_frames)
        if needed.kind == "clip" and needed.count is not None:
            return sampling.spread(num_frames, needed.count)
        return list(range(num_frames))

    def _of_images(self, num_frames: int) -> list[int]:
        if self.options.frames == "uniform":
            return sampling.uniform(num_frames, self.options.count)
        if self.options.frames == "points":
            return sampling.at_points(num_frames)
        if self.options.frames == "middle":
            return sampling.middle(num_frames)
        return list(range(num_frames))

    @torch.no_grad()
    def score(self, clips: Sequence[Clip]) -> list[float | None]:
        """The reward's scores; clips of one size and length go through it together."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, clip in enumerate(clips):
            groups.setdefault(clip.frames.shape, []).append(place)
        found: list[float | None] = [None] * len(clips)
        for places in groups.values():
            pixels = np.stack([clips[place].frames for place in places])
            video = torch.from_numpy(pixels).to(self.device).permute(0, 1, 4, 2, 3).float() / 255
            prompts = [Prompt(clips[place].text) for place in places]
            scores = self.reward(video, prompts, Randomness(0)).score
            for place, score in zip(places, scores.tolist(), strict=True):
                found[place] = score
        return found
