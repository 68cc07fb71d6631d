"""Which format a LoRA file nearly is, and the names that do not fit: for the message that refuses it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from vader_core.lora.formats import LoraFormat

#: With more strange names than this a file is not nearly of a format.
_MOST = 3


def nearest(names: Sequence[str], formats: Iterable[LoraFormat]) -> tuple[str, list[str]] | None:
    """The format that would know a file but for a few of its names.

    Args:
        names: Of the file's tensors.
        formats: Those to be asked, each with files of a part of the names and no numbers.

    Returns:
        The format's name and the names that it does not know, at most three; ``None`` where no format knows
        all the others, or where they are not the greater part.
    """
    found: list[tuple[int, str, list[str]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for format_ in formats:
            strange = _strange(names, partial(_knows, format_, Path(folder)))
            if strange and 2 * len(strange) < len(names):
                found.append((len(strange), format_.name, sorted(strange)))
    return min(found)[1:] if found else None


def near_words(found: tuple[str, list[str]] | None) -> str:
    """What a message says of it; empty where there is none."""
    if found is None:
        return ""
    name, strange = found
    return f"; it is nearest to {name!r}, which does not know {', '.join(map(repr, strange))}"


def _strange(names: Sequence[str], knows: Callable[[Sequence[str]], bool]) -> list[str]:
    """The names that keep a file from being known, by halving; empty where there are none or too many."""
    waiting: list[list[str]] = [list(names)] if names else []
    strange: list[str] = []
    while waiting:
        part = waiting.pop()
        if knows(part):
            continue
        if len(part) == 1:
            strange += part
        else:
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]
        if len(strange) > _MOST:
            return []
    return strange


def _knows(format_: LoraFormat, folder: Path, names: Sequence[str]) -> bool:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = folder / "names.safetensors"
    try:
        save_file({name: torch.empty(0) for name in names}, path)
    except (UnicodeEncodeError, SafetensorError):  # a pickle may hold names that no text can
        return False
    try:
        return format_.recognises(path)
    except Exception:  # the plugin border: a broken format is no format that it is near to
        return False
