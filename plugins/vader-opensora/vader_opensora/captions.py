"""Prompts as Open-Sora's text encoder wants them: scores appended, segments split off, text cleaned."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from vader_core.caption_cleaning import clean
from vader_core.errors import VaderError

# -- scores ----------------------------------------------------------------------------------------------


def append_scores(
    text: str,
    *,
    aesthetic: float | None = None,
    motion: float | None = None,
    camera: str | None = None,
) -> str:
    """Append what Open-Sora's training captions say of their video; what the text says already is left alone.

    >>> append_scores("a cat.", aesthetic=6.5, camera="pan left")
    'a cat. aesthetic score: 6.5. camera motion: pan left.'
    """
    said = {
        "aesthetic score": None if aesthetic is None else f"{aesthetic:.1f}",
        "motion score": None if motion is None else f"{motion:.1f}",
        "camera motion": camera,
    }
    for label, value in said.items():
        if value is not None and f"{label}:" not in text:
            text = f"{text} {label}: {value}."
    return text


# -- segments --------------------------------------------------------------------------------------------

_SEGMENT = re.compile(r"\|(\d+)\|")


def split_segments(text: str) -> tuple[list[str], list[int] | None]:
    """The texts of ``|0| … |1| …`` and where they begin; ``None`` without such marks."""
    if not text.startswith("|0|"):
        return [text], None
    parts = _SEGMENT.split(text)[1:]
    return [part.strip() for part in parts[1::2]], [int(index) for index in parts[0::2]]


def merge_segments(texts: list[str], starts: list[int] | None) -> str:
    """The inverse of :func:`split_segments`."""
    if starts is None:
        return texts[0]
    return "".join(f"|{start}|{text}" for start, text in zip(starts, texts, strict=True))


def segment_text(text: str, segment: int) -> str:
    """The part of ``|0| … |1| …`` that holds in ``segment``: the last one that begins at or before it."""
    if not text.startswith("|0|"):
        return text
    parts = _SEGMENT.split(text)[1:]
    held = [part for start, part in zip(parts[0::2], parts[1::2], strict=True) if int(start) <= segment]
    return held[-1]


# -- references ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What one prompt line asks for.

    Args:
        text: The description.
        reference_path: Pictures or clips to start from, separated by ``;``.
        mask_strategy: Which of their frames go where.
    """

    text: str
    reference_path: str = ""
    mask_strategy: str = ""


_JSON_KEYS = {"reference_path", "mask_strategy"}


def parse_request(line: str) -> Request:
    """Read a prompt line that may end in ``{"reference_path": …, "mask_strategy": …}``.

    Raises:
        VaderError: What follows the first brace is not such an object.
    """
    text, brace, rest = line.partition("{")
    if not brace:
        return Request(line)
    try:
        given = json.loads(brace + rest)
    except json.JSONDecodeError as error:
        raise VaderError(
            f'prompt {line!r}: what follows "{{" is not valid JSON ({error.msg}); leave the brace out, or '
            'end the prompt with {"reference_path": "picture.png", "mask_strategy": "0"}'
        ) from error
    unknown = sorted(set(given) - _JSON_KEYS)
    if unknown:
        raise VaderError(
            f"prompt {line!r}: unknown key {unknown[0]!r} (known: {', '.join(sorted(_JSON_KEYS))})"
        )
    return Request(text, str(given.get("reference_path", "")), str(given.get("mask_strategy", "")))


def prepare(
    text: str,
    *,
    aesthetic: float | None = None,
    motion: float | None = None,
    camera: str | None = None,
    cleaned: bool = True,
    segment: int = 0,
) -> str:
    """The text that the encoder sees: scored, cleaned, and the segment's part of it."""
    texts, starts = split_segments(parse_request(text).text)
    scored = [append_scores(part, aesthetic=aesthetic, motion=motion, camera=camera) for part in texts]
    return segment_text(
        merge_segments([clean(part) if cleaned else part for part in scored], starts), segment
    )
