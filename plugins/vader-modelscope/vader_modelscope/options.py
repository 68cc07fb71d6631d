"""The backbone's options."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ModelScopeConfig(BaseModel):
    """Options of the backbone `modelscope`, for `-o backbone.KEY=VALUE`."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field(
        "pretrained",
        description="pretrained, a folder in diffusers' layout, hub:OWNER/NAME[@REVISION], or random",
    )
    architecture: str | dict[str, Any] | None = Field(
        None,
        description="full, tiny, a folder in diffusers' layout, a JSON file with unet, vae and text_encoder, "
        "or those three as a mapping; left out: the weights' own where they are a local folder, else full",
    )
    decode_chunk: int = Field(
        4,
        ge=1,
        description="frames decoded together while checkpointing is on; bounds memory, changes no number",
    )
    seed: int = Field(0, description="seed of random weights")
