"""Every noun doing every activity, after DDPO's prompts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pydantic import Field

from vader_core.builtin.prompts.article import with_article
from vader_core.builtin.prompts.file import read_prompts
from vader_core.builtin.prompts.listed import ListedPrompts
from vader_core.builtin.prompts.options import PromptOptions
from vader_core.builtin.prompts.themed import read_words
from vader_core.prompts import Prompt

# fixed: it decides which pairs are held out
_ORDER_SEED = 2407


class NounsActivitiesOptions(PromptOptions):
    """Options of ``nouns_activities``."""

    nouns: Path | None = Field(default=None, description="your own nouns, one per line, without an article")
    activities: Path | None = Field(
        default=None, description="your own activities, one per line, such as `riding a bicycle`"
    )


def make_nouns_activities(config: Any, *, device: object, dtype: object) -> ListedPrompts:
    """The source ``nouns_activities``: every pair, in a fixed shuffled order."""
    nouns = _words(config.nouns, "words/nouns.txt")
    activities = _words(config.activities, "words/activities.txt")
    pairs = [(noun, activity) for noun in nouns for activity in activities]
    random.Random(_ORDER_SEED).shuffle(pairs)
    prompts = [
        Prompt(
            f"{with_article(noun)} {activity}", config.negative, None, {"noun": noun, "activity": activity}
        )
        for noun, activity in pairs
    ]
    return ListedPrompts(prompts, config.held_out, name="nouns_activities")


def _words(path: Path | None, own: str) -> list[str]:
    if path is None:
        return read_words(own)
    return list(dict.fromkeys(prompt.text for prompt in read_prompts(path)))
