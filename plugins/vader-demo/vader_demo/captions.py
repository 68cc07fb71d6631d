"""The demo world's words: what a caption can say, how it is tokenised, which captions are held out.

Pure Python, so that listing prompts needs no torch.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import cache

SHAPES = ("ball", "square", "triangle", "star", "ring", "cross", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
BACKGROUNDS = ("black", "gray", "navy", "teal", "maroon", "pink")
MOTIONS = (
    "moving left",
    "moving right",
    "rising",
    "falling",
    "bouncing",
    "spinning",
    "growing",
    "shrinking",
    "circling",
    "standing still",
)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "background": BACKGROUNDS,
    "motion": MOTIONS,
}
"""The four attributes a caption may name, with their values."""

CAPTION_TOKENS = 12
"""Tokens of an encoded caption; the longest caption of the grammar has 9 words, the rest is padding."""

HELD_OUT_COMBINATIONS = 1024
"""Of the 3,840 attribute combinations, how many the video model never saw in training."""

PADDING = 0
"""Token id of padding; an empty caption (the unconditional branch) is padding throughout."""

WORDS: tuple[str, ...] = (
    "<pad>",
    "a",
    "an",
    "on",
    "background",
    *dict.fromkeys(word for values in ATTRIBUTES.values() for value in values for word in value.split()),
)
"""The word list: a token id is an index into it."""

_TOKEN = {word: index for index, word in enumerate(WORDS)}


class UnknownWordError(ValueError):
    """A caption the demo model cannot read, with the message to show."""


@dataclass(frozen=True)
class Attributes:
    """What a caption names: an index into the values of each attribute, or None where it is silent."""

    shape: int
    colour: int | None = None
    background: int | None = None
    motion: int | None = None

    @property
    def caption(self) -> str:
        """The caption of these attributes.

        >>> Attributes(3, 1, 2, 5).caption
        'an orange star spinning on a navy background'
        >>> Attributes(0).caption
        'a ball'
        """
        noun = SHAPES[self.shape]
        if self.colour is not None:
            noun = f"{COLOURS[self.colour]} {noun}"
        text = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
        if self.motion is not None:
            text += f" {MOTIONS[self.motion]}"
        if self.background is not None:
            text += f" on a {BACKGROUNDS[self.background]} background"
        return text


def named_attributes(caption: str) -> dict[str, int]:
    """Read off which attributes a caption names, each with the index of its value.

    >>> named_attributes("a red ball moving left")
    {'shape': 0, 'colour': 0, 'motion': 0}
    """
    text = f" {' '.join(_words(caption))} "
    return {
        name: index
        for name, values in ATTRIBUTES.items()
        for index, value in enumerate(values)
        if f" {value} " in text
    }


def tokenise(caption: str) -> list[int]:
    """Turn a caption into `CAPTION_TOKENS` token ids, padded at the end.

    Raises:
        UnknownWordError: for a word outside the word list, or too many words.

    >>> tokenise("")
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    """
    words = _words(caption)
    unknown = sorted({word for word in words if word not in _TOKEN})
    if unknown:
        raise UnknownWordError(
            f"the demo model does not know {', '.join(map(repr, unknown))} in {caption!r}; "
            f"it knows only: {', '.join(WORDS[1:])}"
        )
    if len(words) > CAPTION_TOKENS:
        raise UnknownWordError(
            f"a caption for the demo model has at most {CAPTION_TOKENS} words; {caption!r} has {len(words)}"
        )
    return [_TOKEN[word] for word in words] + [PADDING] * (CAPTION_TOKENS - len(words))


@cache
def combinations() -> tuple[tuple[int, int, int, int], ...]:
    """All 3,840 combinations of shape, colour, background and motion, as indices."""
    shapes, colours, backgrounds, motions = (range(len(values)) for values in ATTRIBUTES.values())
    return tuple(itertools.product(shapes, colours, backgrounds, motions))


@cache
def split_captions(split: str, without: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The captions of a split, in a fixed shuffled order.

    The order is that of a hash of the words, so it depends on no random generator; the first 4 of 15 captions
    are held out. Captions that name everything are those of `split_combinations`.

    Args:
        split: `train` or `held_out`.
        without: Attributes that are left out: `colour`, `background`, `motion`.
    """
    names = tuple(ATTRIBUTES)
    captions = {
        Attributes(**{n: v for n, v in zip(names, row, strict=True) if n not in without}).caption
        for row in combinations()
    }
    ordered = sorted(captions, key=lambda caption: hashlib.sha256(caption.encode()).digest())
    size = len(ordered) * HELD_OUT_COMBINATIONS // len(combinations())
    return tuple({"held_out": ordered[:size], "train": ordered[size:]}[split])


@cache
def split_combinations(split: str) -> tuple[tuple[int, int, int, int], ...]:
    """The attribute combinations of `split_captions`, in its order.

    Args:
        split: `train` (2,816 combinations) or `held_out` (1,024, never shown to the video model).
    """
    rows = {Attributes(*row).caption: row for row in combinations()}
    return tuple(rows[caption] for caption in split_captions(split))


def _words(caption: str) -> list[str]:
    return caption.lower().replace(",", " ").replace(".", " ").split()
