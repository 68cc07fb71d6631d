"""Paths as people type them: ``~`` is the home folder, and what is kept is usable from another folder."""

from __future__ import annotations

import os
from pathlib import Path

from vader_core.errors import VaderError, did_you_mean

#: Bytes, of every file system in use.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
#: Prompt sources, and data, whose words are a path.
_PROMPTS, _DATA = ("file:", "images:"), ("file:", "videos:", "cache:")


def entered(path: str | Path) -> Path:
    """A path that came from outside, its ``~`` expanded.

    Raises:
        VaderError: The home folder of nobody, or a path that no file can have.
    """
    try:
        found = Path(path).expanduser()
    except (RuntimeError, ValueError) as error:
        raise VaderError(f"{path}: there is no such home folder") from error
    if "\0" in str(found):
        raise VaderError(f"{str(path)!r}: a path holds no zero byte")
    try:
        longest = max((len(os.fsencode(part)) for part in found.parts), default=0)
    except UnicodeEncodeError as error:
        raise VaderError(f"{str(path)!r}: a path holds no half surrogate pair") from error
    if longest > _LONGEST_NAME or len(os.fsencode(found)) > _LONGEST_PATH:
        raise VaderError(
            f"{str(path)[:60]}…: a name in a path has at most {_LONGEST_NAME} bytes, a path {_LONGEST_PATH}"
        )
    return found


def kept(path: str | Path) -> str:
    """A path as a run's settings keep it: absolute, whatever folder it is read from later."""
    return str(entered(path).absolute())


def kept_data(source: str | None) -> str | None:
    """What is learned from as a run's settings keep it."""
    return _kept_after(source, _DATA)


def kept_source(source: str | None) -> str | None:
    """A prompt source as a run's settings keep it.

    >>> kept_source("text:a cat"), kept_source("file:/p.txt"), kept_source(None)
    ('text:a cat', 'file:/p.txt', None)
    """
    return _kept_after(source, _PROMPTS)


def without_folder(text: str) -> str:
    """A value of a run's settings as it is handed on: of an absolute path the last name alone.

    >>> without_folder("/home/me/red.py"), without_folder("file:/home/me/shots.csv"), without_folder("animal")
    ('red.py', 'file:shots.csv', 'animal')
    """
    form = next((form for form in (*_PROMPTS, *_DATA) if text.startswith(form)), "")
    path = Path(text.removeprefix(form))
    return f"{form}{path.name}" if path.is_absolute() and path.name else text


def _kept_after(source: str | None, forms: tuple[str, ...]) -> str | None:
    form = next((form for form in forms if source is not None and source.startswith(form)), None)
    if form is None or source is None or not source.removeprefix(form):
        return source
    return form + kept(source.removeprefix(form))


def kept_place(text: str | None) -> str | None:
    """An adapter or weights as a run's settings keep them: what is a file or folder here, absolute."""
    if text is None or text.startswith("hub:"):
        return text
    return kept(text) if entered(text).exists() else text


def check_there(lora: str) -> None:
    """Refuse a ``--lora`` value, with or without its scale, that names nothing here.

    Raises:
        VaderError: Says what it might have been.
    """
    if lora.startswith("hub:") or any(entered(text).exists() for text in _without_scale(lora)):
        return
    place = entered(_without_scale(lora)[-1])
    beside = sorted(path.name for path in place.parent.glob("*")) if place.parent.is_dir() else []
    near_one = did_you_mean(place.name, beside)
    repository = f"; of the hub it would be hub:{lora}" if lora.count("/") == 1 else ""
    raise VaderError(
        f"there is no run, file or folder {place}{near_one}{repository} (allowed: a run directory, a PATH or "
        "hub:REPO[/FILE])"
    )


def run_of(lora: str) -> Path | None:
    """The run directory that a ``--lora`` value, with or without its scale, lies in; ``None`` elsewhere.

    It is the value itself, or two folders up from a checkpoint of the run.
    """
    if lora.startswith("hub:"):
        return None
    for text in _without_scale(lora):
        path = entered(text)
        if not path.exists():
            continue
        for folder in (path, *list(path.absolute().parents)[:3]):
            if (folder / "config.yaml").is_file() and (folder == path or _within(path, folder)):
                return folder
    return None


def file_of(lora: str) -> Path | None:
    """The file that a ``--lora`` value, with or without its scale, names; ``None`` where it is none here."""
    if lora.startswith("hub:"):
        return None
    return next((path for text in _without_scale(lora) if (path := entered(text)).is_file()), None)


def _without_scale(lora: str) -> list[str]:
    """The value itself, and what stands before its scale where it has one."""
    place, colon, scale = lora.rpartition(":")
    return [lora] + ([place] if colon and place and _is_number(scale) else [])


def _within(path: Path, run: Path) -> bool:
    return path.absolute().is_relative_to((run / "checkpoints").absolute())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
