"""Options of the kit's components."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TinyConfig(BaseModel):
    """Options of the backbones ``tiny`` and ``tiny_image``."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field(
        "random", description="`random`, or the path of a safetensors file that `tiny` wrote"
    )
    schedule: Literal["epsilon", "v", "exploding", "flow"] = Field(
        "flow",
        description="variance preserving (`epsilon`, `v`), variance `exploding` (EDM), or rectified `flow`",
    )
    temporal_compression: int = Field(1, ge=1, le=8, description="video frames that one latent frame holds")
    width: int = Field(16, ge=8, multiple_of=8, description="width of the denoiser's tokens")
    depth: int = Field(2, ge=1, description="number of the denoiser's blocks")
    seed: int = Field(0, description="seed of the random weights")


class FixedConfig(BaseModel):
    """Options of the prompt source ``fixed``."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(
        8, ge=1, le=10_000, description="number of training prompts; as many more are held out"
    )
