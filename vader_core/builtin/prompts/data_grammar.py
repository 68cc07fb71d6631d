"""The words of ``--data``: file:PATH, videos:FOLDER, cache:FOLDER or NAME."""

from __future__ import annotations

from vader_core.errors import VaderError

_FORMS = ("file", "videos", "cache")
_ALLOWED = "file:PATH, videos:FOLDER, cache:FOLDER or the NAME of a source that has videos"


def parse_data(text: str) -> tuple[str, str]:
    """The form (``file``, ``videos``, ``cache`` or ``name``) and what it names.

    Raises:
        VaderError: An unknown form, or nothing behind the colon.

    >>> parse_data("videos:my_clips"), parse_data("demo_style")
    (('videos', 'my_clips'), ('name', 'demo_style'))
    """
    form, colon, rest = text.partition(":")
    if not colon:
        if form in _FORMS or not form.strip():
            raise VaderError(f"--data {text}: say which, as in {form or 'videos'}:… (allowed: {_ALLOWED})")
        return "name", form
    if form not in _FORMS:
        raise VaderError(f"--data {text!r}: {form!r} is no form of data (allowed: {_ALLOWED})")
    if not rest.strip():
        raise VaderError(f"--data {text!r}: nothing stands after the colon (allowed: {_ALLOWED})")
    return form, rest
