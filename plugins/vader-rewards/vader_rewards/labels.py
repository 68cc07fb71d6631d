"""Class names: from a user's words to a class index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vader_core.errors import VaderError, did_you_mean


def label_index(value: str | int, labels: Mapping[int, str], *, needed_for: str) -> int:
    """The class that a label name (any case) or a number means.

    Raises:
        VaderError: Neither; names the near ones.
    """
    by_name = {name.lower(): index for index, name in labels.items()}
    text = str(value).strip().lower()
    if text in by_name:
        return by_name[text]
    if text.isdigit() and int(text) in labels:
        return int(text)
    first = ", ".join(sorted(by_name)[:5])
    raise VaderError(
        f"{needed_for}: no class {value!r}{did_you_mean(text, by_name)} ({len(by_name)} classes: {first}, …; "
        f"or an index from 0 to {max(labels)})"
    )


def label_in_text(text: str, labels: Mapping[int, str]) -> int | None:
    """The class with the longest name that stands in ``text`` as whole words; ``None`` where there is none.

    >>> label_in_text("A cat playing piano, sunny", {0: "playing", 1: "playing piano"})
    1
    """
    words = f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
    found = [
        (len(name), -index)
        for index, name in labels.items()
        if f" {' '.join(re.findall(r'[a-z0-9]+', name.lower()))} " in words
    ]
    return -max(found)[1] if found else None


def labels_of(config: Any) -> dict[int, str]:
    """The class names of a transformers configuration."""
    return {int(index): str(name) for index, name in config.id2label.items()}
