"""Options of the backbone and of the demo images; imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class SvdConfig(BaseModel):
    """Options of the backbone ``svd``.

    The conditioning defaults are the published pipeline's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str = Field(
        "pretrained", description="pretrained, a folder in diffusers' layout, hub:REPO[@REV] or random"
    )
    variant: Literal["fp16"] | None = Field(
        None, description="fp16 reads the half-precision files of the folder or repository, half the download"
    )
    architecture: str | None = Field(
        None,
        description="full (14 frames), xt (25), tiny (tests), a JSON file, or a folder in diffusers' layout; "
        "unset is that of a --weights folder, else full",
    )
    seed: int = Field(0, description="of random weights")
    motion_bucket_id: Annotated[float, Field(ge=0)] = Field(127, description="how much moves; more is more")
    noise_aug_strength: Annotated[float, Field(ge=0)] = Field(
        0.02, description="standard deviation of the noise on the first frame before it is encoded"
    )
    image_fit: Literal["stretch", "crop"] = Field(
        "stretch",
        description="how a picture of another shape becomes the first frame; stretch is the published way",
    )
    neighbours: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        4,
        description="frames of context to each side when only some frames are decoded; all is exact",
    )
    decode_chunk: Annotated[int, Field(ge=1)] | None = Field(
        None, description="frames a chunk when every frame is decoded; unset is the whole video at once"
    )


class DemoImagesConfig(BaseModel):
    """Options of the prompt source ``svd_demo_images``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path | None = Field(
        None, description="where the pictures are written; unset is the user's cache folder"
    )
    height: Annotated[int, Field(ge=16)] = Field(576, description="pixels")
    width: Annotated[int, Field(ge=16)] = Field(1024, description="pixels")
