"""Options of the backbone `opensora11` and of its prompts; imports nothing heavy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from vader_core.errors import VaderError
from vader_opensora.options import FamilyOptions, Wide
from vader_opensora.resolutions import ASPECT_RATIOS
from vader_opensora.v11.architecture import resolve_architecture

#: How the aspect ratio is told.
Ratio = Literal["height/width", "width/height"]


class OpenSora11Options(FamilyOptions):
    """Options of the backbone `opensora11`."""

    architecture: str | dict[str, Any] = Field(
        default="full",
        description="full (the published sizes), tiny (for tests), or a mapping with denoiser and vae",
    )
    aspect_ratio: str = Field(default="9:16", description=f"height:width: {', '.join(ASPECT_RATIOS)}")
    conditioning_dtype: Wide = Field(
        default="float32",
        description="in which height, width, aspect ratio, length and frame rate are told; the official "
        "training has bfloat16, which rounds 426 pixels to 426 and 854 to 856",
    )
    timestep_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="to which timesteps are rounded before the model is told; the official training and "
        "sampling round to bfloat16, which makes 1000 of 999 and 500 of 501",
    )
    told_ratio: Ratio = Field(
        default="height/width",
        description="the aspect ratio as the model is told it: height/width as officially in sampling and in "
        "text2bricks, width/height as in Open-Sora 1.1's own training",
    )
    frame_interval: int = Field(
        default=3,
        ge=1,
        description="the model is told the video's fps times this: it learned the rate of files of which "
        "every n-th frame was taken",
    )

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        try:
            resolve_architecture(value)
        except VaderError as error:
            raise ValueError(str(error)) from error
        return value


class ToyBricksOptions(BaseModel):
    """The prompt source `toy_bricks` has no options."""

    model_config = ConfigDict(extra="forbid")
