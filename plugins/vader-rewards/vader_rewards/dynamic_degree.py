"""``dynamic_degree``: how much moves, by optical flow; a monitor without a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vader_core.errors import MissingDependencyError
from vader_core.precision import without_autocast
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, clip

from .loading import load_model
from .options import DynamicDegreeOptions
from .preprocessing import clamped
from .weight_files import RAFT

#: VBench: a pair of frames moves where the fastest 5 % do so by more than 6 pixels per 256 of the short side.
SHARE, THRESHOLD, REFERENCE = 0.05, 6.0, 256
#: Updates of the flow.
UPDATES = 20
#: RAFT halves its features four times at an eighth of the size.
LEAST_SIDE = 128


class DynamicDegree(ClipReward):
    """Motion over VBench's threshold: the mean over neighbouring frames of the flow's fastest 5 %.

    1 is the threshold itself. With ``upstream=true`` the score is VBench's own: 1 where at least 4 of 16
    frames move, else 0. Frames are taken as they come; VBench looks at 8 per second.
    """

    name: ClassVar[str] = "dynamic_degree"
    differentiable: ClassVar[bool] = False

    def __init__(self, options: DynamicDegreeOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.upstream, self.fps = device, options.upstream, options.fps
        self.model: Any = load_model(
            build_raft,
            options.weights,
            RAFT,
            device=device,
            dtype=torch.float32,
            needed_for="reward 'dynamic_degree'",
            option="-o reward.dynamic_degree.weights=PATH",
        )

    @property
    def frames(self) -> FramesNeeded:
        """A clip of two frames or more."""
        return clip(minimum=2)

    @torch.no_grad()
    def speeds(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f-1"]:
        """Of each pair of neighbouring frames: the mean length of the fastest 5 % of its flow, in pixels."""
        height, width = video.shape[-2:]
        frames = padded(2.0 * clamped(video.to(self.device)).flatten(0, 1) - 1.0).unflatten(
            0, video.shape[:2]
        )
        rows = []
        for clip_frames in frames:  # pairs of one video at once: a flow's correlations are much for a device
            flow = self.model(clip_frames[:-1], clip_frames[1:], num_flow_updates=UPDATES)[-1]
            length = unpadded(flow, height, width).norm(dim=1).flatten(1)
            count = max(1, int(height * width * SHARE))
            rows.append(length.topk(count, dim=1).values.mean(dim=1))
        return torch.stack(rows)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """The speed over the threshold, or whether VBench says that it moves; prompts play no part."""
        with without_autocast(self.device):
            threshold = max(1.0, 8.0 / self.fps) * THRESHOLD * min(video.shape[-2:]) / REFERENCE
            speeds = self.speeds(video)
            if not self.upstream:
                return (speeds / threshold).mean(dim=1)
            wanted = round(4 * video.shape[1] / 16)
            return ((speeds > threshold).sum(dim=1) >= max(1, wanted)).float()


def padded(frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
    """Frames whose sides are multiples of 8 and large enough, the edge repeated on both sides."""
    left, top = _edges(frames.shape[-1]), _edges(frames.shape[-2])
    return F.pad(frames, (*left, *top), mode="replicate")


def unpadded(flow: Float[Tensor, "n 2 h w"], height: int, width: int) -> Float[Tensor, "n 2 H W"]:
    """The part of a flow that belongs to the frames."""
    top, left = _edges(height)[0], _edges(width)[0]
    return flow[..., top : top + height, left : left + width]


def _edges(side: int) -> tuple[int, int]:
    more = max(-(-side // 8) * 8, LEAST_SIDE) - side
    return more // 2, more - more // 2


def build_raft() -> Any:
    """RAFT large, of torchvision.

    Raises:
        MissingDependencyError: torchvision is not installed.
    """
    try:
        from torchvision.models.optical_flow import raft_large
    except ImportError as error:
        raise MissingDependencyError(
            "torchvision", "reward 'dynamic_degree'", "pip install 'vader-rewards[flow]'"
        ) from error
    return raft_large()
