"""``aesthetic_hps``: VADER's published mix of the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import Reward, RewardOutput

from .aesthetic import Aesthetic
from .hps import Hps
from .options import AestheticHpsOptions

#: VADER's factors: of the HPS part in the score, and of the aesthetic part in the loss.
HPS_SCORE_FACTOR = 15.0
AESTHETIC_LOSS_FACTOR = 1.5


class AestheticHps(Reward):
    """Score ``(aesthetic + 15 hps) / 2``; loss ``(1.5 * 0.1 |aesthetic - 10| + |1 - hps|) / 2``.

    The frames are preprocessed once for both. With ``hps.upstream`` the HPS part sees only the pairs that the
    original saw.
    """

    name: ClassVar[str] = "aesthetic_hps"
    reads_text: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = ("clip-l14", "clip-h14")

    def __init__(self, options: AestheticHpsOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        key = f"reward.{self.name}"
        self.aesthetic = Aesthetic(options.aesthetic, device=device, dtype=dtype, key=f"{key}.aesthetic")
        self.hps = Hps(options.hps, device=device, dtype=dtype, key=f"{key}.hps")
        if self.aesthetic.size != self.hps.size:
            raise VaderError(
                f"reward 'aesthetic_hps': both towers must see one image size, not {self.aesthetic.size} and "
                f"{self.hps.size}; give both the same architecture kind"
            )

    def towers(self) -> list[nn.Module]:
        """Both image towers."""
        return [*self.aesthetic.towers(), *self.hps.towers()]

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss of each video."""
        return self.compare(video, self.hps.encode_prompts(prompts))

    def compare(self, video: Float[Tensor, "b f 3 H W"], text: Float[Tensor, "b d"]) -> RewardOutput:
        """Score and loss against unit text embeddings, one per video."""
        batch, count = video.shape[:2]
        pixels = self.aesthetic.pixels(rearrange(video, "b f c H W -> (b f) c H W"))
        aesthetic = self.aesthetic.head_values(pixels)
        if self.hps.upstream:
            hps = self.hps.cosines(pixels[:batch], text).view(batch, 1)
        else:
            hps = self.hps.cosines(pixels, repeat(text, "b d -> (b f) d", f=count)).view(batch, count)
        aesthetic_loss = self.aesthetic.loss_frames(aesthetic).view(batch, count).mean(dim=1)
        hps_loss = (1.0 - hps).abs().mean(dim=1)
        return RewardOutput(
            score=(aesthetic.view(batch, count).mean(dim=1) + HPS_SCORE_FACTOR * hps.mean(dim=1)) / 2,
            loss=(AESTHETIC_LOSS_FACTOR * aesthetic_loss + hps_loss) / 2,
        )
