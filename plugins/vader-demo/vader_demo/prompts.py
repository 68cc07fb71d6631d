"""The prompt source ``demo``: captions of the demo's world, a part of them held out."""

from __future__ import annotations

from collections.abc import Sequence

from vader_core.prompts import Prompt, PromptSource, shuffled_index
from vader_demo.captions import ATTRIBUTES, named_attributes, split_captions
from vader_demo.options import DemoPromptsConfig


class DemoPrompts(PromptSource):
    """Captions of the demo's world; metadata holds the attributes that each names, as words.

    Args:
        config: Options.
    """

    def __init__(self, config: DemoPromptsConfig) -> None:
        self._train = self._prompts(config, "train")
        self._held_out = self._prompts(config, "held_out")

    @staticmethod
    def _prompts(config: DemoPromptsConfig, split: str) -> list[Prompt]:
        prompts = []
        for caption in split_captions(split, frozenset(config.without)):
            named = {name: ATTRIBUTES[name][index] for name, index in named_attributes(caption).items()}
            prompts.append(Prompt(caption, config.negative, None, named))
        return prompts

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """Training captions, each once in a pass over all of them."""
        return [self._train[shuffled_index(index, len(self._train), seed)] for index in indices]

    def all(self) -> list[Prompt]:
        """The held-out captions."""
        return list(self._held_out)
