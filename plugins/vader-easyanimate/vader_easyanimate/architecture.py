"""Sizes of the two networks, under the names of the official config files; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from vader_core.errors import VaderError, unknown
from vader_core.paths import entered

#: Pixels along a side of one latent element.
SPATIAL = 8
#: Latent side from which the model is told resolution and aspect ratio.
TOLD_SIZE = 128


@dataclass(frozen=True)
class MotionConfig:
    """Sizes of a motion module; the defaults are V2's.

    Args:
        num_attention_heads: Heads of the attention over frames.
        num_transformer_block: Transformer blocks in one module.
        num_attentions: Attentions in one transformer block, all of them over frames.
        max_frames: Latent frames that the position table holds.
        dim_div: The model's width over the attention's.
        block_size: Side of the square of places that attend together: 1 for V2, 2 for V1 ("grid").
    """

    num_attention_heads: int = 8
    num_transformer_block: int = 1
    num_attentions: int = 2
    max_frames: int = 4096
    dim_div: int = 1
    block_size: int = 1


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the denoiser; the defaults are EasyAnimateV2-XL-2-512x512 (1,446,296,864 parameters).

    Args:
        num_attention_heads: Heads of the attention within a frame and to the text.
        attention_head_dim: Channels of a head.
        in_channels: Latent channels.
        out_channels: Channels of the noise and of the learned variance.
        num_layers: Blocks.
        sample_size: Side of the training latents: positions keep their natural scale there; from 128 on the
            model is told resolution and aspect ratio.
        patch_size: Along height and width.
        caption_channels: Width of the text encoder.
        norm_eps: Of the layer norms.
        enable_uvit: Whether the first blocks' outputs are added before the last ones, through a linear layer.
        motion: Sizes of the motion modules.
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int = 8
    num_layers: int = 28
    sample_size: int = 64
    patch_size: int = 2
    caption_channels: int = 4096
    norm_eps: float = 1e-6
    enable_uvit: bool = True
    motion: MotionConfig = field(default_factory=MotionConfig)

    @property
    def width(self) -> int:
        """Channels of a token: 1152."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def skips(self) -> int:
        """Skip connections: 13 for 28 blocks, so that blocks 13 and 14 have none."""
        return (self.num_layers - 1) // 2 if self.enable_uvit else 0

    @property
    def tells_size(self) -> bool:
        """Whether the model is told resolution and aspect ratio."""
        return self.sample_size == TOLD_SIZE

    @property
    def position_scale(self) -> float:
        """What positions are divided by: 1 up to 64 latents, 2 at 128."""
        return max(self.sample_size // 64, 1)

    @property
    def base_size(self) -> int:
        """Tokens along a side of the training latents."""
        return self.sample_size // self.patch_size


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the video autoencoder; the defaults are V2's (245,979,879 parameters).

    Args:
        in_channels: Of the pixels that go in.
        out_channels: Of the pixels that come out.
        ch: Channels of the first level.
        ch_mult: Channels of each level over ``ch``.
        layers_per_block: Residual blocks of a level in the encoder; the decoder has one more.
        latent_channels: Channels of the latents.
        norm_num_groups: Of every group norm.
        temporal_levels: Whether a level that changes size changes the number of frames too.
        slice_compression_vae: The slice variant: latents see their neighbours, slices of 8 frames in place of
            9.
        mini_batch_encoder: Frames of a chunk.
        mini_batch_decoder: Latent frames of a chunk.
    """

    in_channels: int = 3
    out_channels: int = 3
    ch: int = 128
    ch_mult: Sequence[int] = (1, 2, 4, 4)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    temporal_levels: Sequence[bool] = (False, True, True, True)
    slice_compression_vae: bool = False
    mini_batch_encoder: int = 9
    mini_batch_decoder: int = 3

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.ch * multiplier for multiplier in self.ch_mult]

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip: 1 for a picture, 3 per 9 frames (slice: 2 per 8, and 1 if odd).

        >>> AutoencoderConfig().latent_frames(144)
        48
        """
        if num_frames == 1:
            return 1
        whole = num_frames // self.mini_batch_encoder * self.mini_batch_decoder
        return whole + (num_frames % 2 if self.slice_compression_vae else 0)

    def check_frames(self, num_frames: int) -> None:
        """Refuse a number of frames that is no whole number of chunks.

        Raises:
            VaderError: Naming the nearest that is.
        """
        chunk = self.mini_batch_encoder
        rest = num_frames % chunk
        if num_frames == 1 or (num_frames > 0 and rest == 0):
            return
        if self.slice_compression_vae and num_frames > 1 and rest == 1:
            return
        below = max(num_frames // chunk * chunk, 1)
        also = f" or {below + 1}" if self.slice_compression_vae and below > 1 else ""
        raise VaderError(
            f"backbone 'easyanimate': num_frames={num_frames} is not allowed: use 1 or a multiple of {chunk}"
            f"{' (or one more)' if self.slice_compression_vae else ''}, e.g. {below}{also} or "
            f"{max(num_frames, 0) // chunk * chunk + chunk}"
        )


@dataclass(frozen=True)
class Architecture:
    """Both networks, and the text's length.

    Args:
        denoiser: The transformer.
        vae: The autoencoder.
        text_tokens: Tokens that texts are padded and cut to.
    """

    denoiser: TransformerConfig = field(default_factory=TransformerConfig)
    vae: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_tokens: int = 120


#: Small enough for a test on a CPU, with every part of the full model.
TINY: Mapping[str, Any] = {
    "denoiser": {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 4,
        "sample_size": 16,
        "caption_channels": 24,
        "motion": {"num_attention_heads": 4, "max_frames": 64},
    },
    "vae": {"ch": 8, "ch_mult": (1, 2, 2, 4), "norm_num_groups": 4},
    "text_tokens": 12,
}

NAMED: Mapping[str, Mapping[str, Any]] = {
    "512": {},
    "768": {"denoiser": {"sample_size": 96}},
    "tiny": TINY,
}


def resolve_architecture(given: str | Mapping[str, Any]) -> Architecture:
    """The sizes that ``512``, ``768``, ``tiny`` or a mapping means.

    Args:
        given: A name, or ``{"denoiser": {…, "motion": {…}}, "vae": {…}, "text_tokens": …}`` with the fields
            of :class:`TransformerConfig`, :class:`MotionConfig` and :class:`AutoencoderConfig`; what is left
            out is as in V2's 512-pixel model.

    Raises:
        VaderError: An unknown name or field, or sizes that do not go together.
    """
    if isinstance(given, str):
        if given not in NAMED:
            raise unknown("architecture", given, NAMED)
        given = NAMED[given]
    _check_names(given, ("denoiser", "vae", "text_tokens"), "architecture")
    sizes = dict(given.get("denoiser", {}))
    motion = _sizes(MotionConfig, sizes.pop("motion", {}), "architecture.denoiser.motion")
    denoiser = _sizes(TransformerConfig, {**sizes, "motion": motion}, "architecture.denoiser")
    vae = _sizes(AutoencoderConfig, given.get("vae", {}), "architecture.vae")
    _check_widths(denoiser)
    if len(vae.temporal_levels) != len(vae.ch_mult):
        raise VaderError("architecture.vae: ch_mult and temporal_levels must have the same length")
    return Architecture(denoiser, vae, int(given.get("text_tokens", 120)))


def check_architecture(given: str | Mapping[str, Any]) -> None:
    """Refuse what is neither a model folder nor taken by :func:`resolve_architecture`.

    Raises:
        VaderError: Saying what is wrong.
    """
    if not (isinstance(given, str) and (entered(given) / "transformer" / "config.json").is_file()):
        resolve_architecture(given)


def _check_widths(sizes: TransformerConfig) -> None:
    if sizes.num_layers < 2:
        raise VaderError(f"architecture.denoiser: num_layers={sizes.num_layers} must be 2 or more")
    motion = sizes.motion
    needed = {"4": 4, "32 (groups of the motion modules' norm)": 32}
    needed["motion.num_attention_heads * motion.dim_div"] = motion.num_attention_heads * motion.dim_div
    if sizes.tells_size:
        needed["3 (sizes are told at this sample_size)"] = 3
    for label, factor in needed.items():
        if sizes.width % factor:
            raise VaderError(
                f"architecture.denoiser: the width num_attention_heads * attention_head_dim = {sizes.width} "
                f"must be a multiple of {label}"
            )


def _check_names(given: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for name in given:
        if name not in names:
            raise unknown(f"{where} key", str(name), names)


def _sizes(kind: Any, given: Mapping[str, Any], where: str) -> Any:
    _check_names(given, tuple(one.name for one in fields(kind)), where)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
