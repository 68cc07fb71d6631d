"""Sizes of the three networks of a VideoCrafter2 model, and the two sets that ship with the plugin."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class UNetArchitecture(BaseModel):
    """Constructor parameters of the factorised 3-D UNet, named as in the official configuration.

    The defaults are those of `inference_t2v_512_v2.0.yaml` (1,413,284,420 parameters).
    """

    # Until 2.10 pydantic warns of every field that begins with ``model_``.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    in_channels: PositiveInt = 4
    out_channels: PositiveInt = 4
    model_channels: PositiveInt = 320
    channel_mult: tuple[PositiveInt, ...] = (1, 2, 4, 4)
    num_res_blocks: PositiveInt = 2
    attention_resolutions: tuple[PositiveInt, ...] = Field(
        default=(4, 2, 1), description="downsampling factors at which the levels carry transformers"
    )
    num_head_channels: PositiveInt = 64
    transformer_depth: PositiveInt = 1
    context_dim: PositiveInt = 1024
    use_linear: bool = True
    temporal_conv: bool = True
    temporal_attention: bool = True
    addition_attention: bool = True
    fps_cond: bool = True
    use_checkpoint: bool = Field(default=True, description="gradient checkpointing; changes no value")
    temporal_length: int | None = Field(default=16, description="unused: no layer depends on the frame count")
    temporal_selfatt_only: bool = True
    use_relative_position: bool = False
    use_causal_attention: bool = False

    @model_validator(mode="after")
    def _only_what_videocrafter2_uses(self) -> UNetArchitecture:
        if self.use_relative_position or self.use_causal_attention or not self.temporal_selfatt_only:
            raise ValueError(
                "VideoCrafter2 has no relative positions, no causal attention, temporal self-attention only: "
                "use_relative_position and use_causal_attention must be false, temporal_selfatt_only true"
            )
        if self.model_channels % 32:
            raise ValueError(f"model_channels={self.model_channels} must be a multiple of the 32 norm groups")
        for multiple in (1, *self.channel_mult):
            if (self.model_channels * multiple) % self.num_head_channels and self._has_attention(multiple):
                raise ValueError(
                    f"model_channels={self.model_channels} times {multiple} is not a multiple of "
                    f"num_head_channels={self.num_head_channels}"
                )
        return self

    def _has_attention(self, multiple: int) -> bool:
        levels = [2**i for i, m in enumerate(self.channel_mult) if m == multiple]
        return multiple == self.channel_mult[-1] or any(f in self.attention_resolutions for f in levels)

    @property
    def downsampling(self) -> int:
        """Factor between the largest and the smallest resolution inside the UNet."""
        return 2 ** (len(self.channel_mult) - 1)


class AutoencoderArchitecture(BaseModel):
    """Sizes of the Stable Diffusion KL autoencoder; the defaults are the official ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    block_out_channels: tuple[PositiveInt, ...] = (128, 256, 512, 512)
    layers_per_block: PositiveInt = 2
    latent_channels: PositiveInt = 4
    scaling_factor: float = Field(default=0.18215, gt=0)

    @property
    def downsampling(self) -> int:
        """Pixels along a side of one latent element."""
        return 2 ** (len(self.block_out_channels) - 1)


class TextArchitecture(BaseModel):
    """Sizes of the OpenCLIP text tower; the defaults are those of ViT-H-14."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt = 1024
    heads: PositiveInt = 16
    layers: PositiveInt = 24
    context_length: PositiveInt = 77
    vocab_size: PositiveInt = 49408
    embed_dim: PositiveInt = 1024


class Architecture(BaseModel):
    """Sizes of the whole model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unet: UNetArchitecture = UNetArchitecture()
    autoencoder: AutoencoderArchitecture = AutoencoderArchitecture()
    text: TextArchitecture = TextArchitecture()

    @model_validator(mode="after")
    def _parts_fit(self) -> Architecture:
        if self.unet.context_dim != self.text.width:
            raise ValueError(
                f"unet.context_dim={self.unet.context_dim} must equal text.width={self.text.width}"
            )
        if self.unet.in_channels != self.autoencoder.latent_channels:
            raise ValueError(
                f"unet.in_channels={self.unet.in_channels} must equal "
                f"autoencoder.latent_channels={self.autoencoder.latent_channels}"
            )
        return self

    @property
    def size_multiple(self) -> int:
        """Pixels of which height and width must be multiples (64 in the official model)."""
        return self.autoencoder.downsampling * self.unet.downsampling


FULL = Architecture()
"""The released model: 1.41 B UNet, 84 M autoencoder, 354 M text tower."""

TINY = Architecture(
    unet=UNetArchitecture(
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(1,),
        num_head_channels=16,
        context_dim=32,
    ),
    autoencoder=AutoencoderArchitecture(block_out_channels=(32, 32), layers_per_block=1),
    text=TextArchitecture(width=32, heads=2, layers=2, embed_dim=32),
)
"""For tests on a CPU: every kind of layer, about three million parameters, sizes in multiples of 4 pixels."""

NAMED: dict[str, Architecture] = {"full": FULL, "tiny": TINY}


def resolve_architecture(value: str | dict[str, Any] | Architecture) -> Architecture:
    """Returns the architecture that a name (`full`, `tiny`) or a mapping of sizes stands for.

    Raises:
        ValueError: The name is unknown or the sizes do not fit together.
    """
    if isinstance(value, Architecture):
        return value
    if isinstance(value, dict):
        return Architecture.model_validate(value)
    if value not in NAMED:
        raise ValueError(
            f"architecture={value!r} is unknown: use full, tiny, or a mapping with the keys unet, "
            "autoencoder, text"
        )
    return NAMED[value]
