"""The reward ``example_redness``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from vader_core import ImageReward, Prompt


class Redness(ImageReward):
    """How much more red than green and blue a frame is: -1 is cyan, 0 is grey, 1 is red."""

    name = "example_redness"

    def score_frames(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Frames [N, 3, H, W] in [0, 1] to scores [N]."""
        red, green, blue = frames.unbind(dim=1)
        return (red - (green + blue) / 2).mean(dim=(1, 2))
