"""Prompts from a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from vader_core.builtin.prompts.listed import ListedPrompts
from vader_core.builtin.prompts.options import OwnPromptOptions
from vader_core.errors import VaderError
from vader_core.paths import entered
from vader_core.pictures import PICTURES, pictures_in, read_picture
from vader_core.prompts import Prompt


class ImagesOptions(OwnPromptOptions):
    """Options of ``images``."""

    folder: Path = Field(
        description=f"folder of pictures ({', '.join(PICTURES)}), in the order of their names"
    )
    text: str = Field(default="", description="the text that goes with every picture")


def make_images(config: Any, *, device: object, dtype: object) -> ListedPrompts:
    """The source ``images``."""
    folder = entered(config.folder)
    if not folder.is_dir():
        raise VaderError(f"prompts images:{config.folder}: there is no such folder")
    pictures = pictures_in(folder)
    if not pictures:
        raise VaderError(
            f"prompts images:{config.folder}: there is no picture in this folder ({', '.join(PICTURES)})"
        )
    for picture in pictures:  # a torn one must not end the run at the step that draws it
        read_picture(picture)
    prompts = [Prompt(config.text.strip(), config.negative, picture) for picture in pictures]
    return ListedPrompts(prompts, config.held_out, name="images")
