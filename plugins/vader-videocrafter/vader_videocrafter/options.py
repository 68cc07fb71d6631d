"""Options of the backbone and of its sampler; imports nothing heavy."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from vader_videocrafter.architecture import resolve_architecture


class VideoCrafterOptions(BaseModel):
    """Options of the backbone `videocrafter`."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field(
        default="pretrained",
        description="pretrained, random, hub:REPO[/FILE][@REVISION], a file, or a folder with model.ckpt",
    )
    architecture: str | dict[str, Any] = Field(
        default="full",
        description="full (the released sizes), tiny (for tests), or a mapping with unet, autoencoder, text",
    )
    offload_text_encoder: bool = Field(
        default=False, description="keep the text encoder on the CPU between its calls; changes no number"
    )
    offload_autoencoder: bool = Field(
        default=False, description="keep the autoencoder on the CPU between its calls; changes no number"
    )
    decode_slice: PositiveInt | None = Field(
        default=8, description="frames decoded at once, null for all; changes no number beyond rounding"
    )
    decode_tiling: bool = Field(
        default=False,
        description="decode in blended tiles of 256 pixels: less memory, a slightly other picture",
    )

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        resolve_architecture(value)
        return value


class DDIMOptions(BaseModel):
    """Options of the sampler `ddim_videocrafter`."""

    model_config = ConfigDict(extra="forbid")

    eta: float = Field(
        default=1.0, ge=0.0, le=1.0, description="share of fresh noise a step; 0 is deterministic"
    )
