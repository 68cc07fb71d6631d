"""The words of ``--prompts``: NAME, file:PATH, text:… or images:FOLDER."""

from __future__ import annotations

from typing import Any

from vader_core.errors import VaderError

#: What stands before the colon -> the option of the source of that name that takes the rest.
FORMS = {"file": "path", "text": "text", "images": "folder"}


def parse_prompts(text: str) -> tuple[str, dict[str, Any]]:
    """The source's name and the options that the words imply.

    Raises:
        VaderError: A form that needs something after its colon, or an unknown form.

    >>> parse_prompts("file:prompts.csv")
    ('file', {'path': 'prompts.csv'})
    >>> parse_prompts("animal")
    ('animal', {})
    """
    form, colon, rest = text.partition(":")
    allowed = "NAME, file:PATH, text:…, images:FOLDER"
    if not colon:
        if form in FORMS:
            raise VaderError(f"--prompts {text}: say which, as in {form}:… (allowed: {allowed})")
        if not form.strip():
            raise VaderError(f"--prompts is empty (allowed: {allowed})")
        return form, {}
    if form not in FORMS:
        raise VaderError(
            f"--prompts {text!r}: {form!r} is no form of prompts (allowed: {allowed}); "
            f"a prompt of your own is written text:{text}"
        )
    if not rest.strip():
        raise VaderError(f"--prompts {text!r}: nothing stands after the colon (allowed: {allowed})")
    return form, {FORMS[form]: rest}
