"""Rewards with one defect each."""

import torch
from torch import nn

from vader_core.reward import ClipReward, ImageReward, Reward, RewardOutput
from vader_core.testing.tiny import BrightnessReward


class Detached(ImageReward):
    def score_frames(self, frames, prompts):
        return frames.detach().mean(dim=(1, 2, 3))


class Relative(ImageReward):
    def score_frames(self, frames, prompts):
        brightness = frames.mean(dim=(1, 2, 3))
        return brightness - brightness.mean() + 0.1 * frames[:, 0].mean(dim=(1, 2))


class GlobalCrop(ImageReward):
    def score_frames(self, frames, prompts):
        left = int(torch.randint(0, 32, ()))
        return frames[..., left : left + 8].mean(dim=(1, 2, 3))


class HalfGradient(ImageReward):
    def score_frames(self, frames, prompts):
        return (frames[:, 0] * frames[:, 1].detach()).mean(dim=(1, 2))


class WrongSign(BrightnessReward):
    def loss_frames(self, scores):
        return scores


class Trainable(ImageReward):
    def __init__(self):
        self.head = nn.Conv2d(3, 1, 1)

    def score_frames(self, frames, prompts):
        return self.head(frames).mean(dim=(1, 2, 3))


class Summed(Reward):
    def __call__(self, video, prompts, rng):
        score = video.mean(dim=(2, 3, 4)).sum(dim=1)
        return RewardOutput(score, -score)


class Column(ClipReward):
    def score(self, video, prompts, rng):
        return video.mean(dim=(1, 2, 3, 4))[:, None]


class OneSize(ImageReward):
    def score_frames(self, frames, prompts):
        return frames.flatten(1) @ torch.linspace(0, 1, 3 * 64 * 64) / 1000


class Sound(BrightnessReward):
    pass
