"""The themed lists: sentences of our own, under the names that users of VADER know."""

from __future__ import annotations

from importlib import resources
from typing import Any, ClassVar

from pydantic import Field

from vader_core.builtin.prompts.listed import ListedPrompts
from vader_core.builtin.prompts.options import PromptOptions
from vader_core.prompts import Prompt

#: Name of the list (lists/<name>.txt) -> its one line.
THEMES = {
    "animal": "animals in their surroundings",
    "animal_action": "animals in motion",
    "animal_clothes": "animals in clothes",
    "animal_housework": "animals that keep house",
    "animal_sport": "animals that do sports",
    "animal_technology": "animals and machines",
    "book_cup": "books and cups, for rewards that remove an object",
    "human": "people",
    "human_activity": "people who do something",
    "instruments": "people and animals that play an instrument",
    "outdoor": "landscapes and weather",
    "rainy": "scenes in the rain",
    "snowy": "scenes in the snow",
}


class ThemedOptions(PromptOptions):
    """Options of a themed list."""

    theme: ClassVar[str]

    held_out: int = Field(
        default=8,
        ge=0,
        description="the last so many prompts are for evaluation alone; 0 evaluates on what is trained on",
    )


def themed_options(theme: str) -> type[ThemedOptions]:
    """The option model of one list; it carries the list's name."""
    name = "".join(part.capitalize() for part in theme.split("_")) + "Options"
    body = {"__module__": __name__, "__annotations__": {"theme": ClassVar[str]}, "theme": theme}
    return type(name, (ThemedOptions,), {**body, "__doc__": f"Options of ``{theme}``."})


#: Name of the list -> its option model, which is a name of this module as well.
OPTIONS = {theme: themed_options(theme) for theme in THEMES}
globals().update({model.__name__: model for model in OPTIONS.values()})


def read_words(name: str) -> list[str]:
    """The lines of a data file of this package, e.g. ``lists/animal.txt``."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").splitlines()


def make_themed(config: Any, *, device: object, dtype: object) -> ListedPrompts:
    """The source of the list whose options these are."""
    theme = type(config).theme
    prompts = [Prompt(text, config.negative) for text in read_words(f"lists/{theme}.txt")]
    return ListedPrompts(prompts, config.held_out, name=theme)
