"""``clip_score``: how well a frame fits its prompt, by CLIP."""

from __future__ import annotations

from typing import ClassVar

from .clip_towers import L14_PRESETS
from .pick_score import PickScore
from .weight_files import CLIP_L14


class ClipScore(PickScore):
    """100 times the cosine of frame and prompt in CLIP ViT-L/14, about 15 to 35; loss ``|1 - score / 100|``.

    CLIPScore (arXiv 2104.08718) without its floor at 0, which would have no gradient.
    """

    name: ClassVar[str] = "clip_score"
    families: ClassVar[tuple[str, ...]] = ("clip-l14",)
    file = CLIP_L14
    presets = L14_PRESETS
