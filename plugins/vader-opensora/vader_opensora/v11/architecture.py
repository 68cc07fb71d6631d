"""Sizes of Open-Sora 1.1's two networks, and the sets of sizes known by name; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vader_core.errors import VaderError, unknown
from vader_opensora.architecture import IMAGE_VAE, TINY_IMAGE_VAE, check_names, sizes_of


@dataclass(frozen=True)
class STDiT2Config:
    """Sizes of an STDiT2; the defaults are XL/2, the published model (767,452,100 parameters).

    Args:
        depth: Blocks, each with spatial and temporal attention.
        hidden_size: Channels, a multiple of 3, of 4 and of ``2 * num_heads``.
        num_heads: Attention heads.
        mlp_ratio: Width of the feed-forward over ``hidden_size``.
        patch_size: Along (t, h, w).
        in_channels: Latent channels; the output has twice as many.
        caption_channels: Width of the text encoder.
        model_max_length: Text tokens.
        input_sq_size: Side in pixels of the square at which positions have their natural scale.
        qk_norm: Whether queries and keys are normalised.
    """

    depth: int = 28
    hidden_size: int = 1152
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: tuple[int, int, int] = (1, 2, 2)
    in_channels: int = 4
    caption_channels: int = 4096
    model_max_length: int = 200
    input_sq_size: int = 512
    qk_norm: bool = True


@dataclass(frozen=True)
class Architecture:
    """Both networks.

    Args:
        denoiser: The transformer.
        vae: Constructor arguments of diffusers' ``AutoencoderKL``.
    """

    denoiser: STDiT2Config = field(default_factory=STDiT2Config)
    vae: Mapping[str, Any] = field(default_factory=lambda: dict(IMAGE_VAE))


#: Small enough for a test on a CPU, with every part of the full model.
TINY: Mapping[str, Any] = {
    "denoiser": {
        "depth": 3,
        "hidden_size": 48,
        "num_heads": 4,
        "caption_channels": 32,
        "model_max_length": 20,
    },
    "vae": TINY_IMAGE_VAE,
}

NAMED: Mapping[str, Mapping[str, Any]] = {"full": {}, "tiny": TINY}


def resolve_architecture(given: str | Mapping[str, Any]) -> Architecture:
    """The sizes that ``full``, ``tiny`` or a mapping means.

    Args:
        given: A name, or ``{"denoiser": {…}, "vae": {…}}`` with the fields of :class:`STDiT2Config` and of
            diffusers' ``AutoencoderKL``; what is left out is as in the published model.

    Raises:
        VaderError: An unknown name or field, or sizes that do not go together.
    """
    if isinstance(given, str):
        if given not in NAMED:
            raise unknown("architecture", given, NAMED)
        given = NAMED[given]
    check_names(given, ("denoiser", "vae"), "architecture")
    denoiser: STDiT2Config = sizes_of(STDiT2Config, given.get("denoiser", {}), "architecture.denoiser")
    width = denoiser.hidden_size
    if width % 3 or width % 4 or width % (2 * denoiser.num_heads):
        raise VaderError(
            f"architecture.denoiser: hidden_size={width} must be a multiple of 3, of 4 and of "
            f"2 * num_heads={2 * denoiser.num_heads}"
        )
    return Architecture(denoiser, {**IMAGE_VAE, **given.get("vae", {})})
