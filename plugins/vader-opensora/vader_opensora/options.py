"""Options of the backbone and of its sampler; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from vader_core.errors import VaderError
from vader_opensora.architecture import resolve_architecture
from vader_opensora.resolutions import ASPECT_RATIOS, RESOLUTIONS

#: Names of floating-point types that options take.
Wide = Literal["float32", "bfloat16", "float16"]


class FamilyOptions(BaseModel):
    """Options that the backbones of every Open-Sora have."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field(
        default="pretrained",
        description="of the denoiser: pretrained, a path (file, or folder with model.safetensors), "
        "hub:REPO[/FILE][@REVISION], or random",
    )
    vae_weights: str | None = Field(
        default=None,
        description="of the autoencoder, the same forms; null is random with random weights, else pretrained",
    )
    text_encoder_weights: str | None = Field(
        default=None,
        description="of T5: pretrained, a folder that transformers reads, hub:REPO[@REVISION], or random "
        "(every word a random vector, no T5); null is random with random weights, else pretrained",
    )
    resolution: str = Field(default="240p", description=f"{', '.join(RESOLUTIONS)}")
    aspect_ratio: str = Field(default="3:4", description=f"height:width: {', '.join(ASPECT_RATIOS)}")
    clean_captions: bool = Field(
        default=True, description="clean prompts as the training captions were cleaned"
    )
    conditioning_dtype: Wide = Field(
        default="float32",
        description="in which height, width, length and fps are told and the time shift is computed; "
        "the official training has bfloat16, which rounds 854 pixels to 856; float16 is refused where it "
        "overflows",
    )
    text_encoder_device: str | None = Field(
        default=None, description="where T5 runs, e.g. cpu; null is the device of the run"
    )
    text_encoder_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of T5's weights: 17.7 GiB in float32 as upstream loads it, 8.9 GiB in bfloat16",
    )
    text_cache: Path | None = Field(
        default=None,
        description="folder of encoded prompts, by content; null is vader/opensora-text in the user's cache "
        "folder",
    )


class OpenSoraOptions(FamilyOptions):
    """Options of the backbone `opensora`."""

    architecture: str | dict[str, Any] = Field(
        default="full",
        description="full (the published sizes), tiny (for tests), or a mapping with denoiser and vae",
    )
    aesthetic_score: float | None = Field(
        default=6.5,
        description="appended to prompts that name none, as in the training captions; null appends nothing",
    )
    motion_score: float | None = Field(default=None, description="likewise, e.g. 4")
    camera_motion: str | None = Field(default=None, description="likewise, e.g. pan right")
    strict_frame_mask: bool = Field(
        default=False,
        description="compare frame masks as the official code does, where rounding can undo the first step",
    )
    decoder: Literal["exact", "vader_single_latent"] = Field(
        default="exact",
        description="for chosen frames: exact (the whole chunk of 17 frames), or vader_single_latent "
        "(one latent decoded alone, as VADER trains: cheaper, another picture)",
    )

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        try:
            resolve_architecture(value)
        except VaderError as error:
            raise ValueError(str(error)) from error
        return value


class RFlowOptions(BaseModel):
    """Options of the sampler `rflow`."""

    model_config = ConfigDict(extra="forbid")

    timestep_transform: bool = Field(
        default=True, description="shift the timesteps by the video's size and length"
    )
    conditioning_dtype: Wide = Field(default="float32", description="in which the shift is computed")
