"""The prompt source ``example_fruit``."""

from __future__ import annotations

from collections.abc import Sequence

from vader_core import Prompt, PromptSource
from vader_core.prompts import shuffled_index

COLOURS = ("red", "green", "yellow", "purple")
TRAINED, HELD_OUT = ("apple", "plum", "grape"), ("pear", "cherry")


class Fruit(PromptSource):
    """A fruit of some colour, lying in ``place``; other fruit are held out for evaluation."""

    def __init__(self, place: str) -> None:
        self.trained = [Prompt(f"a {colour} {fruit} {place}") for colour in COLOURS for fruit in TRAINED]
        self.held_out = [Prompt(f"a {colour} {fruit} {place}") for colour in COLOURS for fruit in HELD_OUT]

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """Shuffled passes over the trained fruit."""
        return [self.trained[shuffled_index(index, len(self.trained), seed)] for index in indices]

    def all(self) -> list[Prompt]:
        """The held-out fruit."""
        return list(self.held_out)
