"""A prompt source whose prompts have videos: a table, or a folder."""

from __future__ import annotations

from collections.abc import Sequence

from vader_core.data.examine import Examined
from vader_core.data.summary import Dropped
from vader_core.errors import VaderError
from vader_core.prompts import Clip, Prompt, PromptSource, Shape, shuffled_index
from vader_core.randomness import derive_seed


class Videos(PromptSource):
    """Captioned clips.

    Args:
        examined: Every row of a table or folder, looked at.
        held_out: So many usable clips are for evaluation alone; ``None`` is a tenth, 8 at most. Which ones
            depends on their files' names, not on their order: a longer table keeps them.
        name: Names the source in messages.

    Raises:
        VaderError: Nothing would be left to learn from.
    """

    def __init__(self, examined: Sequence[Examined], held_out: int | None = 0, *, name: str = "data") -> None:
        self.rows = len(examined)
        self.dropped = tuple(
            Dropped(one.row.number, str(one.row.path), one.problem, one.unreadable)
            for one in examined
            if one.problem is not None
        )
        usable = [one for one in examined if one.problem is None]
        if held_out is None:
            held_out = min(8, len(usable) // 10)
        if held_out and held_out >= len(usable):
            raise VaderError(
                f"{name}: held_out={held_out} leaves none of the {len(usable)} usable clips to learn from"
            )
        order = sorted(usable, key=lambda one: derive_seed("held out", one.row.path.name, str(one.row.start)))
        kept = {id(one) for one in order[:held_out]}
        self.held_out = [_prompt(one) for one in usable if id(one) in kept]
        learned = [one for one in usable if id(one) not in kept]
        #: Row numbers of :meth:`clips`, from 1.
        self.numbers = [one.row.number for one in learned]
        self._clips = [_prompt(one) for one in learned]
        self._shapes = [one.shape for one in learned if one.shape is not None]
        self._held_out_shapes = [one.shape for one in usable if id(one) in kept and one.shape is not None]

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """The training clips at ``indices`` of the stream that ``seed`` names."""
        if not self._clips:
            raise VaderError("the data hold no clip that can be learned from")
        return [self._clips[shuffled_index(index, len(self._clips), seed)] for index in indices]

    def all(self) -> list[Prompt]:
        """The held-out clips, or every clip where none is held out."""
        return list(self.held_out or self._clips)

    def held_out_clips(self) -> list[tuple[Prompt, Shape]]:
        """The held-out clips, with the size of each."""
        return list(zip(self.held_out, self._held_out_shapes, strict=True))

    def clips(self) -> Sequence[Prompt]:
        """Every training clip, in the table's order."""
        return self._clips

    def shapes(self) -> Sequence[Shape]:
        """The size of each of :meth:`clips`."""
        return self._shapes


def _prompt(one: Examined) -> Prompt:
    row = one.row
    return Prompt(row.text, video=Clip(row.path, row.start, row.end))
