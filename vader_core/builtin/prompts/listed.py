"""A prompt source that is a list."""

from __future__ import annotations

from collections.abc import Sequence

from vader_core.errors import VaderError
from vader_core.prompts import Prompt, PromptSource, shuffled_index

#: From so many prompts on some are held out.
ENOUGH = 5


class ListedPrompts(PromptSource):
    """Prompts of a list, drawn in endless shuffled passes.

    Args:
        prompts: At least one.
        held_out: The last so many prompts are for evaluation alone; 0 evaluates on what is trained on.
            ``None`` is a fifth of them where there are :data:`ENOUGH`, else 0.
        name: Names the source in messages.

    Raises:
        VaderError: Nothing would be left to train on.
    """

    def __init__(self, prompts: Sequence[Prompt], held_out: int | None = 0, *, name: str) -> None:
        if held_out is None:
            held_out = len(prompts) // ENOUGH
        if held_out >= len(prompts):
            raise VaderError(
                f"prompts {name!r}: held_out={held_out} leaves none of the {len(prompts)} prompts to train "
                f"on: use 0 to {max(len(prompts) - 1, 0)}"
            )
        cut = len(prompts) - held_out
        self._drawn = list(prompts[:cut])
        self.held_out_count = held_out
        self._every = list(prompts)
        self._evaluated = list(prompts[cut:]) if held_out else list(prompts)

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """The training prompts at ``indices`` of the stream that ``seed`` names."""
        return [self._drawn[shuffled_index(index, len(self._drawn), seed)] for index in indices]

    def all(self) -> list[Prompt]:
        """The held-out prompts, or every prompt where none is held out."""
        return list(self._evaluated)

    def every(self) -> list[Prompt]:
        """The whole list, in its order."""
        return list(self._every)
