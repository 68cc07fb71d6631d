"""Sizes of the two networks, and the sets of sizes known by name; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from vader_core.errors import VaderError, unknown


@dataclass(frozen=True)
class STDiT3Config:
    """Sizes of an STDiT3; the defaults are XL/2, the published model (1,207,643,972 parameters).

    Args:
        depth: Pairs of a spatial and a temporal block.
        hidden_size: Channels, a multiple of 4 and of ``num_heads``.
        num_heads: Attention heads.
        mlp_ratio: Width of the feed-forward over ``hidden_size``.
        patch_size: Along (t, h, w).
        in_channels: Latent channels.
        caption_channels: Width of the text encoder.
        model_max_length: Text tokens.
        input_sq_size: Side in pixels of the square at which positions have their natural scale.
        qk_norm: Whether queries and keys are normalised.
        pred_sigma: Whether the prediction has a second half behind the velocity, which sampling does not use.
    """

    depth: int = 28
    hidden_size: int = 1152
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: tuple[int, int, int] = (1, 2, 2)
    in_channels: int = 4
    caption_channels: int = 4096
    model_max_length: int = 300
    input_sq_size: int = 512
    qk_norm: bool = True
    pred_sigma: bool = True


@dataclass(frozen=True)
class TemporalVAEConfig:
    """Sizes of the temporal autoencoder; the defaults are the published ones (309,687,144 parameters).

    Args:
        in_out_channels: Channels of the image latents.
        latent_embed_dim: Channels that the encoder's moments describe.
        embed_dim: Channels of the video latents.
        filters: Channels of the first stage.
        num_res_blocks: Residual blocks a stage.
        channel_multipliers: Channels of each stage over ``filters``.
        temporal_downsample: After which stage the frames are halved; one shorter than
            ``channel_multipliers``.
        num_groups: Of every group norm.
    """

    in_out_channels: int = 4
    latent_embed_dim: int = 4
    embed_dim: int = 4
    filters: int = 128
    num_res_blocks: int = 4
    channel_multipliers: Sequence[int] = (1, 2, 2, 4)
    temporal_downsample: Sequence[bool] = (False, True, True)
    num_groups: int = 32

    @property
    def widths(self) -> list[int]:
        """Channels of each stage."""
        return [self.filters * multiplier for multiplier in self.channel_multipliers]

    @property
    def time_factor(self) -> int:
        """Frames that one latent frame stands for."""
        return 2 ** sum(bool(halved) for halved in self.temporal_downsample)


#: Constructor arguments of the image autoencoder (diffusers' ``AutoencoderKL``), in 1.1 and in 1.2.
IMAGE_VAE: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
}


@dataclass(frozen=True)
class VideoVAEConfig:
    """Sizes of the video autoencoder; the defaults are the published ones.

    Args:
        spatial: Constructor arguments of diffusers' ``AutoencoderKL``.
        temporal: Sizes of the temporal half.
        chunk_frames: Frames of a chunk of the temporal half (upstream's micro_frame_size).
        image_batch: Frames that go through the image autoencoder at once; changes no value but the order of
            draws.
    """

    spatial: Mapping[str, Any] = field(default_factory=lambda: dict(IMAGE_VAE))
    temporal: TemporalVAEConfig = field(default_factory=TemporalVAEConfig)
    chunk_frames: int = 17
    image_batch: int = 4

    @property
    def chunk_latents(self) -> int:
        """Latent frames of a whole chunk: 5 for 17 frames."""
        return -(-self.chunk_frames // self.temporal.time_factor)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip, chunk by chunk: 51 → 15, 18 → 6.

        >>> VideoVAEConfig().latent_frames(51)
        15
        """
        chunks, rest = divmod(num_frames, self.chunk_frames)
        return chunks * self.chunk_latents - (-rest // self.temporal.time_factor)

    def latent_of(self, frame: int, num_frames: int) -> int:
        """The latent frame that holds a video frame; a chunk is padded at its front.

        >>> [VideoVAEConfig().latent_of(frame, 51) for frame in (0, 1, 4, 5, 17)]
        [0, 1, 1, 2, 5]
        """
        chunk, place = divmod(frame, self.chunk_frames)
        held = min(self.chunk_frames, num_frames - chunk * self.chunk_frames)
        padding = -held % self.temporal.time_factor
        return chunk * self.chunk_latents + (place + padding) // self.temporal.time_factor


@dataclass(frozen=True)
class Architecture:
    """Both networks.

    Args:
        denoiser: The transformer.
        vae: The autoencoder.
    """

    denoiser: STDiT3Config = field(default_factory=STDiT3Config)
    vae: VideoVAEConfig = field(default_factory=VideoVAEConfig)


#: An image autoencoder small enough for a test on a CPU.
TINY_IMAGE_VAE: Mapping[str, Any] = {
    **IMAGE_VAE,
    "block_out_channels": (8, 16, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
}

#: Small enough for a test on a CPU, with every part of the full model.
TINY: Mapping[str, Any] = {
    "denoiser": {
        "depth": 2,
        "hidden_size": 48,
        "num_heads": 4,
        "caption_channels": 32,
        "model_max_length": 20,
    },
    "vae": {
        "spatial": TINY_IMAGE_VAE,
        "temporal": {"filters": 8, "num_res_blocks": 1, "num_groups": 4},
    },
}

NAMED: Mapping[str, Mapping[str, Any]] = {"full": {}, "tiny": TINY}


def resolve_architecture(given: str | Mapping[str, Any]) -> Architecture:
    """The sizes that ``full``, ``tiny`` or a mapping means.

    Args:
        given: A name, or ``{"denoiser": {…}, "vae": {"spatial": {…}, "temporal": {…}, …}}`` with the fields
            of :class:`STDiT3Config`, diffusers' ``AutoencoderKL`` and :class:`TemporalVAEConfig`; what is
            left out is as in the published model.

    Raises:
        VaderError: An unknown name or field, or sizes that do not go together.
    """
    if isinstance(given, str):
        if given not in NAMED:
            raise unknown("architecture", given, NAMED)
        given = NAMED[given]
    check_names(given, ("denoiser", "vae"), "architecture")
    vae = dict(given.get("vae", {}))
    check_names(vae, _names(VideoVAEConfig), "architecture.vae")
    temporal = sizes_of(TemporalVAEConfig, vae.pop("temporal", {}), "architecture.vae.temporal")
    spatial = {**IMAGE_VAE, **vae.pop("spatial", {})}
    denoiser: STDiT3Config = sizes_of(STDiT3Config, given.get("denoiser", {}), "architecture.denoiser")
    if denoiser.hidden_size % 4 or denoiser.hidden_size % (2 * denoiser.num_heads):
        raise VaderError(
            f"architecture.denoiser: hidden_size={denoiser.hidden_size} must be a multiple of 4 and of "
            f"2 * num_heads={2 * denoiser.num_heads}"
        )
    return Architecture(denoiser, VideoVAEConfig(spatial=spatial, temporal=temporal, **vae))


def _names(kind: type) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


def check_names(given: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Refuse a key of ``given`` that is not among ``names``; ``where`` begins the message.

    Raises:
        VaderError: Naming the key and those that are known.
    """
    for name in given:
        if name not in names:
            raise unknown(f"{where} key", str(name), names)


def sizes_of(kind: Any, given: Mapping[str, Any], where: str) -> Any:
    """The dataclass ``kind`` with the fields in ``given``; lists become tuples.

    Raises:
        VaderError: A field that ``kind`` does not have.
    """
    check_names(given, _names(kind), where)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
