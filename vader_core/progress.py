"""How far something long is: told to whoever shows it, who may be nobody."""

from __future__ import annotations

from collections.abc import Callable

#: Called with what is being done, how many are done, and of how many; 0 of 0 where nobody knows.
Progress = Callable[[str, int, int], None]


def unseen(doing: str, done: int, total: int) -> None:
    """Nobody looks."""


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "video"), counted(1024, "reward query"), counted(0, "step")
    ('1 video', '1,024 reward queries', '0 steps')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{number:,} {noun}s"
