"""Options of the backbone and of its samplers; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from vader_core.errors import VaderError
from vader_easyanimate.architecture import check_architecture
from vader_easyanimate.tile_size import check_tile


class EasyAnimateOptions(BaseModel):
    """Options of the backbone `easyanimate`."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field(
        default="pretrained",
        description="pretrained, an official model folder (transformer, vae, text_encoder, tokenizer), a "
        "transformer file alone, hub:REPO[/FILE][@REVISION], or random",
    )
    vae_weights: str | None = Field(
        default=None,
        description="of the autoencoder, the same forms; null is the model folder's, else as weights",
    )
    text_encoder_weights: str | None = Field(
        default=None,
        description="of T5: pretrained, a folder that transformers reads or one with text_encoder and "
        "tokenizer, hub:REPO[@REVISION], or random (every word a random vector, no T5); null is the model "
        "folder's, else as weights",
    )
    architecture: str | dict[str, Any] | None = Field(
        default=None,
        description="512, 768 (each with its own pretrained weights), tiny (for tests), or a mapping with "
        "denoiser, vae and text_tokens, or a model folder; null is the weights' folder's own, else 512",
    )
    smooth_output: bool = Field(
        default=False,
        description="hide the seams between chunks of whole videos as the official pipeline does: encode "
        "and decode them a second time; only where no gradient is recorded",
    )
    tile: int | None = Field(
        default=None,
        description="side in pixels of the autoencoder's overlapping tiles, a multiple of 32 (256 upstream); "
        "null does not cut. Tiles change the picture a little",
    )
    clean_captions: bool = Field(
        default=True,
        description="clean prompts and captions, as the official sampling does and its training does not",
    )
    text_lora: Path | None = Field(
        default=None, description="LoRA file whose text encoder's part (lora_te_…) is merged into T5"
    )
    text_lora_scale: float = Field(default=1.0, description="how strongly that LoRA counts")
    text_encoder_device: str | None = Field(
        default=None, description="where T5 runs, e.g. cpu; null is the device of the run"
    )
    text_encoder_dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16",
        description="of T5's weights: 8.9 GiB in bfloat16 as upstream loads it, 17.7 GiB in float32",
    )
    text_cache: Path | None = Field(
        default=None,
        description="folder of encoded prompts, by content; null is vader/easyanimate-text in the user's "
        "cache folder",
    )

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        try:
            if value is not None:
                check_architecture(value)
        except VaderError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("tile")
    @classmethod
    def _possible_tile(cls, value: int | None) -> int | None:
        try:
            if value is not None:
                check_tile(value)
        except VaderError as error:
            raise ValueError(str(error)) from error
        return value


class DDIMOptions(BaseModel):
    """Options of the sampler `easyanimate_ddim`."""

    model_config = ConfigDict(extra="forbid")

    clip: float | None = Field(
        default=None,
        gt=0.0,
        description="largest size of a clean estimate (1 in EasyAnimate's interface); null leaves it alone",
    )
    steps_offset: int = Field(default=1, ge=0, description="added to every timestep")


class PNDMOptions(BaseModel):
    """Options of the sampler `pndm`."""

    model_config = ConfigDict(extra="forbid")

    steps_offset: int = Field(default=1, ge=0, description="added to every timestep")
