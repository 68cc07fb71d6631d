"""The benchmark prompts of HPS v2 (Wu et al. 2023), from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vader_core.builtin.prompts.listed import ListedPrompts
from vader_core.builtin.prompts.options import PromptOptions
from vader_core.errors import VaderError
from vader_core.paths import entered
from vader_core.prompts import Prompt
from vader_core.weights import WeightFile, fetch

STYLES = ("anime", "concept-art", "paintings", "photo")
#: One list of 800 texts a style.
FILES = tuple(
    WeightFile(
        "zhwang/HPDv2",
        f"benchmark/{style}.json",
        repository_type="dataset",
        when=(("style", ("all", style)), ("folder", (None,))),
    )
    for style in STYLES
)


class HPSv2Options(PromptOptions):
    """Options of ``hps_v2``."""

    style: Literal["all", "anime", "concept-art", "paintings", "photo"] = Field(
        default="all", description="the benchmark's style; `all` is the four one after the other"
    )
    folder: Path | None = Field(
        default=None, description="a folder that holds <style>.json, in place of the download"
    )


def make_hps_v2(config: Any, *, device: object, dtype: object) -> ListedPrompts:
    """The source ``hps_v2``."""
    prompts = []
    for style, wanted in zip(STYLES, FILES, strict=True):
        if config.style not in ("all", style):
            continue
        if config.folder is None:
            path = fetch(
                wanted,
                needed_for="prompts 'hps_v2'",
                option="-o prompts.folder=FOLDER, or another --prompts",
            )
        else:
            path = entered(config.folder) / f"{style}.json"
        prompts += [Prompt(text, config.negative, None, {"style": style}) for text in _read(path)]
    return ListedPrompts(prompts, config.held_out, name="hps_v2")


def _read(path: Path) -> list[str]:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VaderError(f"prompts 'hps_v2': {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise VaderError(f"prompts 'hps_v2': {path} is not JSON: {error}") from error
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise VaderError(f"prompts 'hps_v2': {path} must hold a list of texts")
    return texts
