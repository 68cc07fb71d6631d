"""Options of the backbone ``latte``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LatteOptions(BaseModel):
    """Options of ``latte``."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field("pretrained", description="pretrained, a folder, hub:OWNER/NAME or random")
    architecture: Literal["full", "tiny"] = Field("full", description="`tiny` for tests, with random weights")
