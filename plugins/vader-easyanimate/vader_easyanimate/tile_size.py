"""How large frames are cut into tiles; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from vader_core.errors import VaderError


def check_tile(pixels: int, overlap: float = 0.25) -> None:
    """Refuse tiles that would not begin at whole latents.

    Raises:
        VaderError: Saying what is allowed.
    """
    if pixels < 32 or pixels % 32 or overlap not in (0.25, 0.5):
        raise VaderError(
            f"tiles of {pixels} pixels with overlap {overlap} are not allowed: use a multiple of 32, and an "
            "overlap of 0.25 or 0.5"
        )


@dataclass(frozen=True)
class Tiling:
    """How frames are cut; by diffusers' rule, with the official sizes.

    Args:
        pixels: Side of a tile in pixels, a multiple of 32, so that tiles begin at whole latents.
        overlap: Share of a tile that the next one covers too: a quarter or a half.
    """

    pixels: int = 256
    overlap: float = 0.25

    def __post_init__(self) -> None:
        check_tile(self.pixels, self.overlap)
