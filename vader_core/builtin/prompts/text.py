"""Prompts given in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from vader_core.builtin.prompts.listed import ListedPrompts
from vader_core.builtin.prompts.options import OwnPromptOptions
from vader_core.errors import VaderError
from vader_core.paths import entered
from vader_core.pictures import read_picture
from vader_core.prompts import Prompt


class TextOptions(OwnPromptOptions):
    """Options of ``text``."""

    text: str | list[str] = Field(description="the prompt, or a list of prompts")
    image: Path | None = Field(None, description="the picture that an image-to-video model starts from")


def make_text(config: Any, *, device: object, dtype: object) -> ListedPrompts:
    """The source ``text``."""
    texts = [config.text] if isinstance(config.text, str) else config.text
    if not texts or any(not text.strip() for text in texts):
        raise VaderError("prompts 'text': a prompt is empty; write text:… or -o prompts.text=…")
    image = None if config.image is None else entered(config.image).absolute()
    if image is not None:
        read_picture(image)
    prompts = [Prompt(text.strip(), config.negative, image) for text in texts]
    return ListedPrompts(prompts, config.held_out, name="text")
