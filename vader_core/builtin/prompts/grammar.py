"""The words of ``--prompts``: NAME, file:PATH, text:… or images:FOLDER."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vader_core.errors import VaderError
from vader_core.paths import entered
from vader_core.pictures import PICTURES

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
        _refuse_other_forms(text)
        return form, {}
    if form in ("videos", "cache"):
        raise VaderError(f"--prompts {text}: clips to learn from are --data {text} (prompts: {allowed})")
    if form not in FORMS:
        raise VaderError(
            f"--prompts {text!r}: {form!r} is not a kind of prompts (allowed: {allowed}); "
            f"a prompt of your own is written text:{text}"
        )
    if not rest.strip():
        raise VaderError(f"--prompts {text!r}: nothing stands after the colon (allowed: {allowed})")
    return form, {FORMS[form]: rest}


def prompt_source(source: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of a run's prompt source and its options, those in words and those beside it.

    Raises:
        VaderError: As :func:`parse_prompts`, or an option that the words say too.

    >>> prompt_source("text", {"text": ["a cat", "a dog"]})
    ('text', {'text': ['a cat', 'a dog']})
    """
    name, implied = (source, {}) if FORMS.get(source) in given else parse_prompts(source)
    twice = implied.keys() & given.keys()
    if twice:
        raise VaderError(
            f"--prompts {source} and prompts.{min(twice)} say the same thing twice: give one of them"
        )
    return name, {**implied, **given}


def giving_way(prompts: Mapping[str, Any]) -> dict[str, Any]:
    """A ``prompts`` section below one that names another source: what only spelled out its own goes.

    >>> giving_way({"source": "text", "text": ["a cat"], "negative_prompt": "blur"})
    {'source': 'text', 'negative_prompt': 'blur'}
    """
    spelled_out = FORMS.get(str(prompts.get("source")))
    return {key: value for key, value in prompts.items() if key != spelled_out}


def _refuse_other_forms(text: str) -> None:
    """A path or a sentence where a name belongs is led to the form that it needs."""
    place = entered(text)
    wanted = ""
    if place.is_dir():
        wanted = f"pictures are --prompts images:{text}, clips to learn from are --data videos:{text}"
    elif place.suffix.lower() in PICTURES:
        wanted = f"pictures are --prompts images:{place.parent}"
    elif place.is_file() or place.suffix in (".csv", ".txt", ".jsonl"):
        wanted = f"a file is --prompts file:{text}"
    elif " " in text.strip():
        wanted = f'words of your own are --prompts "text:{text}"'
    if wanted:
        raise VaderError(f"--prompts {text}: {wanted}")
