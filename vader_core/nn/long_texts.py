"""Texts that are longer than an encoder takes: said once, for what is cut off is not in the video."""

from __future__ import annotations

import warnings

#: Encoders that have said it.
_SAID: set[str] = set()


class TextCutWarning(UserWarning):
    """A text was cut to what its encoder takes."""


def say_cut(text: str, tokens: int, most: int, *, label: str) -> None:
    """Warn of the first text of a process that ``label`` cuts; a text that fits says nothing.

    Args:
        text: As it was given.
        tokens: How many it has, with those that begin and end it.
        most: How many are read.
        label: The encoder, for messages.
    """
    if tokens <= most or label in _SAID:
        return
    _SAID.add(label)
    warnings.warn(
        f"{label}: texts are cut to {most} tokens; the first that is longer has {tokens} and begins "
        f"{text[:60]!r}. What comes behind is not read",
        TextCutWarning,
        stacklevel=2,
    )
