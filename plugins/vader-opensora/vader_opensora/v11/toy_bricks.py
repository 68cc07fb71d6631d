"""Eight prompts about toy bricks in stop motion: what a text2bricks run is watched by."""

from __future__ import annotations

from collections.abc import Sequence

from vader_core.prompts import Prompt, PromptSource, shuffled_index

#: In place of the published run's own eight.
PROMPTS = (
    "A figure built of toy bricks crosses a wooden table in small jerky steps, a lamp beside it.",
    "A train of toy bricks leaves a station of toy bricks; two tiny travellers stay behind.",
    "A knight of toy bricks looks up at a dragon that unfolds its wings, brick by brick.",
    "A kitchen of toy bricks: a cook turns a pancake, which lands on the floor.",
    "A sailing boat of toy bricks rolls over waves of blue studs under a grey sky.",
    "Workers of toy bricks put up a tower; the camera rises with it.",
    "A red car of toy bricks races around a bend and loses a wheel.",
    "At night a robot of toy bricks wakes up on a shelf and looks around.",
)


class ToyBricks(PromptSource):
    """The eight prompts, in a fixed order for evaluation."""

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """The prompts at ``indices`` of the stream that ``seed`` names."""
        return [Prompt(PROMPTS[shuffled_index(index, len(PROMPTS), seed)]) for index in indices]

    def all(self) -> list[Prompt]:
        """All eight."""
        return [Prompt(text) for text in PROMPTS]
