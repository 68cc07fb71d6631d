"""RAFT's optical flow, by torchvision's network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vader_core.errors import MissingDependencyError, VaderError
from vader_core.paths import entered
from vader_core.weights import load_exactly, load_tensors

from .contracts import Clip, Scorer
from .device import chosen_device
from .errors import ClipError
from .motion import in_reference
from .options import RaftOptions
from .sampling import at_rate

#: Pairs that go through the network together.
_PAIRS = 8


class Raft(Scorer):
    """Mean length of RAFT's flow over the pairs of frames ``1 / per_second`` apart."""

    def __init__(self, options: RaftOptions) -> None:
        self.options = options
        self.device = chosen_device(options.device)
        self.network = _network(options).to(self.device)

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """Every int(fps / per_second)-th frame."""
        return at_rate(num_frames, fps, self.options.per_second)

    def score(self, clips: Sequence[Clip]) -> list[float | None]:
        """Pixels per pair, rounded to five decimals.

        Raises:
            ClipError: A clip of one frame.
        """
        return [self._score(clip) for clip in clips]

    @torch.no_grad()
    def _score(self, clip: Clip) -> float:
        if len(clip.frames) < 2:
            raise ClipError("motion needs two frames")
        height, width = clip.frames.shape[1:3]
        frames = _scaled(clip.frames, self.options.side)
        scale = torch.tensor([width / frames.shape[3], height / frames.shape[2]], device=self.device)
        lengths = []
        for begin in range(0, len(frames) - 1, _PAIRS):
            part = frames[begin : begin + _PAIRS + 1].to(self.device)
            flow = self.network(part[:-1], part[1:], num_flow_updates=self.options.iterations)[-1]
            lengths.append((flow * scale[:, None, None]).norm(dim=1).mean(dim=(1, 2)).cpu())
        found = float(torch.cat(lengths).mean())
        if not self.options.native_pixels:
            found = in_reference(found, height, width, self.options.reference_side)
        return round(found, 5)


def _scaled(frames: np.ndarray, side: int) -> torch.Tensor:
    """[F, 3, H, W] in [-1, 1]: the shorter side about ``side``, both multiples of 8 and 128 at least."""
    height, width = frames.shape[1:3]
    factor = side / min(height, width)
    size = [max(8 * round(length * factor / 8), 128) for length in (height, width)]
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(video, size=size, mode="bilinear", antialias=True, align_corners=False)


def _network(options: RaftOptions) -> Any:
    try:
        from torchvision.models.optical_flow import raft_large, raft_small
    except ImportError as error:
        raise MissingDependencyError("torchvision", "scorer 'raft'", "pip install torchvision") from error
    make = {"small": raft_small, "large": raft_large}[options.size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make(weights=None).eval().requires_grad_(False)
    if options.weights != "random":
        path = entered(options.weights)
        if not path.is_file():
            raise VaderError(
                f"scorer 'raft': weights {options.weights!r}: no such file; give the state dict of "
                f"torchvision's raft_{options.size}, or `random` to try the rest out"
            )
        load_exactly(network, load_tensors(path, needed_for="scorer 'raft'"), what=f"raft_{options.size}")
    return network
