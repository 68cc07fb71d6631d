"""The options that most prompt sources share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PromptOptions(BaseModel):
    """Options of a source that is a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    negative: str | None = Field(
        default=None, description="negative prompt of every prompt that has none of its own"
    )
    held_out: int = Field(
        default=0,
        ge=0,
        description="the last so many prompts are for evaluation alone; 0 evaluates on what is trained on",
    )


class OwnPromptOptions(PromptOptions):
    """Options of a user's own list, of which some are held out where there are enough."""

    held_out: int | None = Field(  # type: ignore[assignment]  # nothing but `make_…` reads it
        default=None,
        ge=0,
        description="the last so many prompts are for evaluation alone; 0 evaluates on what is trained on; "
        "by default a fifth of five prompts or more, and 0 of fewer",
    )
