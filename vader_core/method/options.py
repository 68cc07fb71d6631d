"""Options of the core's own objectives. Imports nothing heavy."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RewardGradientOptions(BaseModel):
    """Options of the objective ``reward_gradient``."""

    model_config = ConfigDict(extra="forbid")

    gradient: str | None = Field(
        None,
        description="Steps to differentiate: last, last:K, random, from:I, steps:I,J,…, refl or refl:LO-HI; "
        "the backbone's by default.",
    )
    reward_frames: str | None = Field(
        None,
        description="Frames that rewards of images are given; left out, those that the backbone decodes "
        "cheaply, else random.",
    )
    detach_input: bool = Field(
        False, description="Detach the latents that a differentiated prediction is given (DRTune)."
    )
    low_variance: int = Field(
        0, ge=0, description="Re-noise n times and differentiate n last steps (DRaFT-LV); 0 is off."
    )
    inner_updates: int = Field(
        1,
        ge=1,
        description="Optimizer updates per step: after the first, its rollout is re-noised and the last step "
        "differentiated again.",
    )
    base_weight: float = Field(
        0.0, ge=0, description="Weight of the squared distance to the base model's prediction."
    )
    segments: int = Field(1, ge=1, description="Segments of a long video.")
    gradient_segments: list[int] | None = Field(
        None, description="Segments whose rollout is differentiated; the last by default."
    )
    carry_gradient: bool = Field(
        False, description="Let the gradient run through the frame that joins two segments."
    )
