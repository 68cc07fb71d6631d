"""The sizes of the demo's networks: the shipped ones, tiny ones for tests, or a file of one's own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch import nn

from vader_core.errors import VaderError, did_you_mean
from vader_core.paths import entered
from vader_demo.autoencoder import AutoEncoder
from vader_demo.denoiser import Denoiser
from vader_demo.text_encoder import TextEncoder


@dataclass(frozen=True)
class Architecture:
    """Sizes of the three networks; the defaults are the shipped weights'.

    Args:
        width: Channels of a denoiser token, a multiple of ``heads``.
        depth: Blocks of the denoiser.
        heads: Its attention heads.
        ratio: Widening of its feed-forward layers.
        latent_channels: Channels of a latent.
        text_width: Channels of a caption feature, a multiple of ``text_heads``.
        text_heads: Attention heads of the text encoder.
        half: Channels of the auto-encoder at 1/2 of the resolution, a multiple of 8; so ``quarter`` and
            ``eighth``.
        quarter: At 1/4.
        eighth: At 1/8.
    """

    width: int = 160
    depth: int = 8
    heads: int = 5
    ratio: int = 4
    latent_channels: int = 8
    text_width: int = 128
    text_heads: int = 4
    half: int = 48
    quarter: int = 72
    eighth: int = 112

    def denoiser(self) -> Denoiser:
        """A fresh denoiser on torch's current default device."""
        return Denoiser(
            latent_channels=self.latent_channels,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            ratio=self.ratio,
            text_width=self.text_width,
        )

    def modules(self) -> dict[str, nn.Module]:
        """The three networks by role, fresh."""
        return {
            "autoencoder": AutoEncoder(self.latent_channels, (self.half, self.quarter, self.eighth)),
            "text_encoder": TextEncoder(self.text_width, self.text_heads),
            "denoiser": self.denoiser(),
        }


FULL = Architecture()
TINY = Architecture(
    width=16, depth=3, heads=2, ratio=2, text_width=8, text_heads=2, half=8, quarter=8, eighth=16
)


def resolve_architecture(text: str) -> Architecture:
    """``full``, ``tiny``, or a JSON file with some of `Architecture`'s fields.

    Raises:
        VaderError: None of these, unknown fields, or sizes that do not divide.
    """
    if text in ("full", "tiny"):
        return FULL if text == "full" else TINY
    path = entered(text)
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VaderError(
            f"backbone 'demo': architecture {text!r} is not allowed: use full, tiny or a JSON file ({error})"
        ) from error
    known = [field.name for field in fields(Architecture)]
    sizes = given.items() if isinstance(given, dict) else []
    wrong = [name for name, size in sizes if name not in known or not isinstance(size, int) or size < 1]
    if not isinstance(given, dict) or wrong:
        near = did_you_mean(wrong[0], known) if wrong else ""
        raise VaderError(
            f"backbone 'demo': {path} must hold an object of positive whole numbers named "
            f"{', '.join(known)}; not allowed: {', '.join(wrong) or 'the whole'}{near}"
        )
    return _checked(Architecture(**given), path)


def _checked(architecture: Architecture, path: Path) -> Architecture:
    sizes = asdict(architecture)
    rules = [("width", sizes["heads"]), ("text_width", sizes["text_heads"])]
    rules += [(name, 8) for name in ("half", "quarter", "eighth")]
    for name, divisor in rules:
        if sizes[name] % divisor:
            raise VaderError(f"backbone 'demo': {path}: {name}={sizes[name]} must be a multiple of {divisor}")
    return architecture
