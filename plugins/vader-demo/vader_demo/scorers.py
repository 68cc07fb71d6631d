"""The small convolutional nets behind the demo's rewards and judges; all look at 64 x 64 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vader_demo.captions import MOTIONS, PADDING, WORDS
from vader_demo.world import FRAMES


class DownBlock(nn.Module):
    """Halve the resolution, then one residual convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.norm1 = nn.GroupNorm(4, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, c', h/2, w/2)."""
        x = functional.silu(self.norm1(self.down(x)))
        return x + functional.silu(self.norm2(self.conv(x)))


class FrameTrunk(nn.Module):
    """Frames (n, 3, 64, 64) in [0, 1] to features (n, 4 x width, 4, 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 5, stride=2, padding=2)
        self.blocks = nn.Sequential(
            DownBlock(width, 2 * width), DownBlock(2 * width, 3 * width), DownBlock(3 * width, 4 * width)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames to features."""
        return self.blocks(functional.silu(self.stem(frames * 2 - 1)))


class FrameNet(nn.Module):
    """Score single frames.

    Args:
        outputs: numbers per frame.
        width: channels of the first layer, a multiple of 4.
    """

    def __init__(self, outputs: int, width: int) -> None:
        super().__init__()
        self.trunk = FrameTrunk(width)
        self.head = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, outputs))

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (n, 3, 64, 64), RGB in [0, 1], to (n, outputs)."""
        return self.head(self.trunk(frames).mean((2, 3)))


class ClipNet(nn.Module):
    """Score whole clips of 8 frames: a feature a frame that keeps places, then all frames together.

    Args:
        outputs: numbers per clip.
        width: channels of the first layer, a multiple of 4.
    """

    def __init__(self, outputs: int, width: int) -> None:
        super().__init__()
        self.trunk = FrameTrunk(width)
        self.frame = nn.Linear(4 * width * 16, 48)
        self.head = nn.Sequential(nn.Linear(48 * FRAMES, 128), nn.SiLU(), nn.Linear(128, outputs))

    def forward(self, video: Tensor) -> Tensor:
        """Map clips (b, 8, 3, 64, 64), RGB in [0, 1], to (b, outputs)."""
        features = functional.silu(self.frame(self.trunk(video.flatten(0, 1)).flatten(1)))
        return self.head(features.view(len(video), -1))


class AlignmentNet(nn.Module):
    """Text-video similarity: the cosine of a clip's and a caption's embedding.

    The caption is a bag of words: no word of the grammar serves two attributes, so order says nothing.

    Args:
        width: channels of the video tower's first layer, a multiple of 4.
        embedding: size of the common space.
    """

    def __init__(self, width: int, embedding: int = 96) -> None:
        super().__init__()
        self.video = ClipNet(embedding, width)
        self.words = nn.EmbeddingBag(len(WORDS), embedding, mode="sum", padding_idx=PADDING)
        self.text = nn.Sequential(nn.Linear(embedding, 128), nn.SiLU(), nn.Linear(128, embedding))

    def embed_video(self, video: Tensor) -> Tensor:
        """Embed clips (b, 8, 3, 64, 64), RGB in [0, 1], as unit vectors (b, 96), float32."""
        return functional.normalize(self.video(video).float(), dim=1)

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Embed captions (b, 12), token ids, as unit vectors (b, 96), float32."""
        return functional.normalize(self.text(self.words(tokens)).float(), dim=1)

    def forward(self, video: Tensor, tokens: Tensor) -> Tensor:
        """Cosine of each clip with its caption: (b,), -1 to 1."""
        return (self.embed_video(video) * self.embed_text(tokens)).sum(1)


def build_rewards(held_out: bool = False) -> dict[str, nn.Module]:
    """Make the untrained reward nets.

    Args:
        held_out: the second set, of other widths (and trained from other seeds), for monitoring.
    """
    widths = (
        {"aesthetic": 20, "alignment": 16, "action": 12}
        if held_out
        else {"aesthetic": 16, "alignment": 20, "action": 16}
    )
    return {
        "aesthetic": FrameNet(1, widths["aesthetic"]),
        "alignment": AlignmentNet(widths["alignment"]),
        "action": ClipNet(len(MOTIONS), widths["action"]),
    }


def build_judges() -> dict[str, nn.Module]:
    """Make the untrained judges, one an attribute; the first three look at single frames."""
    return {
        "shape": FrameNet(8, 24),
        "colour": FrameNet(8, 12),
        "background": FrameNet(6, 8),
        "motion": ClipNet(len(MOTIONS), 16),
    }


@torch.no_grad()
def judge(judges: dict[str, nn.Module], video: Tensor) -> dict[str, Tensor]:
    """What the judges see in each clip.

    Args:
        judges: nets of `build_judges`.
        video: (b, 8, 3, 64, 64); clamped to [0, 1] here.

    Returns:
        For each attribute the index of the likeliest value, (b,); frame judges vote by their mean logits.
    """
    video = video.clamp(0, 1)
    seen = {}
    for name, net in judges.items():
        if isinstance(net, ClipNet):
            seen[name] = net(video).argmax(1)
        else:
            seen[name] = net(video.flatten(0, 1)).view(len(video), video.shape[1], -1).mean(1).argmax(1)
    return seen
